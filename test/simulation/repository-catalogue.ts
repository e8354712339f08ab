/**
 * The catalogue of the simulation: what SQLite with the server's pragmas guarantees, and no more (docs/adr/0011). SQLite
 * itself cannot run over a JavaScript seam; this is the memory catalogue, which is compared with it call by call
 * (catalogue.test.ts), with a log of what a power cut may take:
 * - one method is one transaction, and a killed process loses none that was committed;
 * - a transaction of the `full` connection (WAL, synchronous=FULL) and all before it survive a power cut; of those of the
 *   `relaxed` connection (synchronous=NORMAL) after it, any number of the last may be lost, never one from the middle;
 * - long lists are written in slices, and a death may come between them.
 * The lock between processes is the kernel's: it ends with its holder.
 */
import {
  type Catalogue,
  MemoryCatalogue,
  MemoryTables,
  type People,
  type Subscriptions,
  type Uploads,
  type Versions,
} from '@collective/repository-server';
import { type Random } from './random.js';
import { type SimulatedLife } from './simulated-server-files.js';

/** Transactions of the `relaxed` connection; every other one that changes something is of the `full` one. */
export const RELAXED: ReadonlySet<string> = new Set([
  'setIndexed',
  'addLiveChunks',
  'retainLiveChunks',
  'reserveChunks',
  'deviceSeen',
  'addNonce',
  'takeNonce',
  'removeExpired',
]);
/** What a power cut may take away: those that change something in most calls, unlike removals of what has expired. */
export const isLosable = (method: string): boolean => RELAXED.has(method) && method !== 'removeExpired';
export const FULL: ReadonlySet<string> = new Set([
  'setAccess',
  'removeAccess',
  'addToken',
  'recordVersion',
  'removeVersion',
  'setVersionState',
  'beginCollection',
  'takeHeadsNumber',
  'addUpload',
  'removeUpload',
  'removeEnded',
  'markCommitted',
  'keepChunks',
  'setUploadDisk',
  'addSubscription',
  'setSubscriptionState',
  'setLease',
  'beat',
  'releaseLease',
  'raiseLeaseNumber',
  'recordSnapshot',
  'setSnapshotState',
  'removeSnapshot',
  'addSnapshotUpload',
  'setReceivedBytes',
  'markSnapshotCommitted',
  'removeSnapshotUpload',
  'removeEndedSnapshotUploads',
]);
/** The method whose second argument is written in slices; the removal of rows finds in the next run what it left. */
const SLICED: ReadonlySet<string> = new Set(['addLiveChunks']);
const SLICE = 2;

/** A catalogue's file with what may happen to it. */
export interface CatalogueFile {
  /** Whatever is killed, all processes are: the file is one that cannot be taken away from one of them. */
  readonly killsTogether: boolean;
  /** Asked before each change; true: it fails as SQLite does when the disk is full. */
  isFull: () => boolean;
  /** Told of each change that a power cut may take away. */
  onLosable: () => void;
  /** As a process sees it. */
  open(life: SimulatedLife): Catalogue;
  /** Without a process: what an operator or a check does. */
  readonly rows: Catalogue;
  /** After a cut, a kill or a loss: resolves when `rows` is the new one. */
  ready(): Promise<void>;
  /** What was done to `rows` is on the medium. */
  settle(): void;
  powerCut(random: Random): void;
  /** Some process has been killed. */
  killed(): void;
  /** Keeps the file as it is; the returned function puts it back. Everything must be down then. */
  backup(): () => void;
  /** An empty one takes its place. */
  lose(): void;
}

type Ticket = { readonly life: SimulatedLife; readonly wake: () => void; isAwake: boolean };

export class SimulatedCatalogueFile implements CatalogueFile {
  readonly killsTogether = false;
  #tables = new MemoryTables();
  #rows = new MemoryCatalogue(this.#tables);
  /** What the file may be after a power cut, oldest first, besides what it is. */
  #prefixes: MemoryTables[] = [];
  #queue: Ticket[] = [];
  isFull: () => boolean = () => false;
  onLosable: () => void = () => undefined;

  open(life: SimulatedLife): Catalogue {
    return {
      people: this.#wrap<People>(life, () => this.#rows.people),
      versions: this.#wrap<Versions>(life, () => this.#rows.versions),
      uploads: this.#wrap<Uploads>(life, () => this.#rows.uploads),
      subscriptions: this.#wrap<Subscriptions>(life, () => this.#rows.subscriptions),
      exclusively: (step) => this.#exclusively(life, step),
      close: async () => undefined,
    };
  }

  get rows(): Catalogue {
    return this.#rows;
  }

  async ready(): Promise<void> {}

  settle(): void {
    this.#prefixes = [];
  }

  powerCut(random: Random): void {
    this.killed();
    this.#put(random.pick([...this.#prefixes, this.#tables]));
  }

  /** Wakes whoever waits for the lock of a process that has died. */
  killed(): void {
    for (const ticket of this.#queue) if (ticket.life.isDead) wake(ticket);
    this.#advance();
  }

  backup(): () => void {
    const tables = this.#tables.copy();
    return () => this.#put(tables);
  }

  lose(): void {
    this.#put(new MemoryTables());
  }

  #put(tables: MemoryTables): void {
    this.#tables = tables.copy();
    this.#rows = new MemoryCatalogue(this.#tables);
    this.#prefixes = [];
  }

  async #exclusively<T>(life: SimulatedLife, step: () => Promise<T>): Promise<T> {
    life.requireAlive();
    let onWake = (): void => undefined;
    const awake = new Promise<void>((resolve) => (onWake = resolve));
    const ticket: Ticket = { life, wake: onWake, isAwake: false };
    this.#queue.push(ticket);
    this.#advance();
    await awake;
    try {
      life.requireAlive();
      return await life.step(step);
    } finally {
      this.#queue = this.#queue.filter((other) => other !== ticket);
      this.#advance();
    }
  }

  #advance(): void {
    this.#queue = this.#queue.filter(({ life }) => !life.isDead);
    const [first] = this.#queue;
    if (first !== undefined) wake(first);
  }

  #wrap<T extends object>(life: SimulatedLife, rows: () => T): T {
    return new Proxy<T>(rows(), {
      get: (_target, name) => {
        const method = String(name);
        return async (...words: unknown[]): Promise<unknown> => {
          let result: unknown;
          for (const slice of SLICED.has(method) ? slicesOf(words) : [words])
            result = await life.step(() => this.#transaction(rows(), method, slice));
          return result;
        };
      },
    });
  }

  #transaction(rows: object, method: string, words: readonly unknown[]): unknown {
    if (RELAXED.has(method) || FULL.has(method)) {
      if (this.isFull()) throw new Error('SQLITE_FULL: database or disk is full');
      if (RELAXED.has(method)) this.#prefixes.push(this.#tables.copy());
    }
    const work: unknown = Reflect.get(rows, method);
    if (typeof work !== 'function') throw new Error(`the catalogue has no ${method}`);
    // The bodies run at once: what they promise is only the result.
    const result: unknown = Reflect.apply(work, rows, words);
    if (FULL.has(method)) this.#prefixes = [];
    if (isLosable(method)) this.onLosable();
    return result;
  }
}

const wake = (ticket: Ticket): void => {
  if (ticket.isAwake) return;
  ticket.isAwake = true;
  ticket.wake();
};

const slicesOf = ([appliance, items]: readonly unknown[]): unknown[][] => {
  const all: unknown[] = Array.from(isIterable(items) ? items : []);
  const slices: unknown[][] = [];
  for (let at = 0; at < all.length; at += SLICE) slices.push([appliance, all.slice(at, at + SLICE)]);
  return slices;
};

const isIterable = (value: unknown): value is Iterable<unknown> =>
  typeof value === 'object' && value !== null && Symbol.iterator in value;
