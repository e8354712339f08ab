/**
 * The real catalogue, SQLite in a real folder, in the place of the simulated one. A death takes the database and its log as
 * they lie at that moment to a new folder, and nothing of the old connections reaches it; a power cut moreover cuts the log
 * anywhere behind the last commit of the `full` connection.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Catalogue,
  type People,
  type Subscriptions,
  SqliteCatalogue,
  type Uploads,
  type Versions,
} from '@collective/repository-server';
import { type CatalogueFile, FULL, isLosable, RELAXED } from './repository-catalogue.js';
import { type Random } from './random.js';
import { KilledError, type SimulatedLife } from './simulated-server-files.js';

/** `bytes`: where its last frame ends; the file may be longer, with frames of before it started again. */
type Log = { readonly bytes: number; readonly start: string };
/** As sqlite.org/fileformat2.html has it: the salts of the header are in each frame of the same log. */
const LOG_HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
const PAGE_SIZE_AT = 8;
const SALTS_AT = 16;
const FRAME_SALTS_AT = 8;
const SALTS_BYTES = 8;
const LOG = 'catalogue.sqlite-wal';

export class SqliteCatalogueFile implements CatalogueFile {
  readonly killsTogether = true;
  readonly #folder: string;
  #generation = 0;
  #catalogue: SqliteCatalogue;
  #ready: Promise<void> = Promise.resolve();
  /** The log at the last commit of the `full` connection. */
  #synced: Log;
  isFull: () => boolean = () => false;
  onLosable: () => void = () => undefined;
  readonly tally = { logsCut: 0 };

  private constructor(folder: string, catalogue: SqliteCatalogue) {
    this.#folder = folder;
    this.#catalogue = catalogue;
    this.#synced = this.#log();
  }

  static async open(folder: string): Promise<SqliteCatalogueFile> {
    mkdirSync(join(folder, '0'), { recursive: true });
    return new SqliteCatalogueFile(folder, await openIn(join(folder, '0')));
  }

  open(life: SimulatedLife): Catalogue {
    return {
      people: this.#wrap<People>(life, () => this.#catalogue.people),
      versions: this.#wrap<Versions>(life, () => this.#catalogue.versions),
      uploads: this.#wrap<Uploads>(life, () => this.#catalogue.uploads),
      subscriptions: this.#wrap<Subscriptions>(life, () => this.#catalogue.subscriptions),
      exclusively: (step) => deadly(life, () => this.#catalogue.exclusively(() => life.step(step))),
      close: async () => undefined,
    };
  }

  get rows(): Catalogue {
    return this.#catalogue;
  }

  ready(): Promise<void> {
    return this.#ready;
  }

  settle(): void {
    this.#synced = this.#log();
  }

  powerCut(random: Random): void {
    const log = this.#log();
    // A log starts again when all of the one before has been synced into the database.
    const syncedBytes = log.start === this.#synced.start ? this.#synced.bytes : LOG_HEADER_BYTES;
    const canCut = log.bytes > syncedBytes;
    if (canCut) this.tally.logsCut += 1;
    this.#continueFrom(this.#path, canCut ? random.between(syncedBytes, log.bytes) : undefined);
  }

  killed(): void {
    this.#continueFrom(this.#path);
  }

  backup(): () => void {
    const path = join(this.#folder, `backup-${this.#generation}`);
    rmSync(path, { recursive: true, force: true });
    copy(this.#path, path);
    return () => this.#continueFrom(path);
  }

  lose(): void {
    this.#continueFrom(undefined);
  }

  async close(): Promise<void> {
    await this.#ready;
    await this.#catalogue.close();
  }

  get #path(): string {
    return join(this.#folder, String(this.#generation));
  }

  /** The files are taken at once; what comes after is only opened again. */
  #continueFrom(from: string | undefined, logBytes?: number): void {
    const old = { catalogue: this.#catalogue, path: this.#path };
    this.#generation += 1;
    const path = this.#path;
    if (from === undefined) mkdirSync(path);
    else copy(from, path);
    if (logBytes !== undefined) truncateSync(join(path, LOG), logBytes);
    this.#ready = this.#ready.then(async () => {
      await old.catalogue.close();
      rmSync(old.path, { recursive: true });
      this.#catalogue = await openIn(path);
      this.#synced = this.#log();
    });
  }

  #log(): Log {
    const path = join(this.#path, LOG);
    const log = existsSync(path) ? readFileSync(path) : Buffer.alloc(0);
    if (log.length < LOG_HEADER_BYTES) return { bytes: log.length, start: '' };
    const salts = log.subarray(SALTS_AT, SALTS_AT + SALTS_BYTES);
    const frameBytes = FRAME_HEADER_BYTES + log.readUInt32BE(PAGE_SIZE_AT);
    let bytes = LOG_HEADER_BYTES;
    while (
      bytes + frameBytes <= log.length &&
      log.subarray(bytes + FRAME_SALTS_AT, bytes + FRAME_SALTS_AT + SALTS_BYTES).equals(salts)
    )
      bytes += frameBytes;
    return { bytes, start: salts.toString('hex') };
  }

  #wrap<T extends object>(life: SimulatedLife, rows: () => T): T {
    return new Proxy<T>(rows(), {
      get: (_target, name) => {
        const method = String(name);
        return (...words: unknown[]): Promise<unknown> =>
          deadly(life, () =>
            life.step(async () => {
              if ((FULL.has(method) || RELAXED.has(method)) && this.isFull())
                throw new Error('SQLITE_FULL: database or disk is full');
              const work: unknown = Reflect.get(rows(), method);
              if (typeof work !== 'function') throw new Error(`the catalogue has no ${method}`);
              const result: unknown = await Reflect.apply(work, rows(), words);
              if (FULL.has(method) && !life.isDead) this.#synced = this.#log();
              if (isLosable(method)) this.onLosable();
              return result;
            }),
          );
      },
    });
  }
}

/** What a dead process's closed connection says is no error of the product. */
const deadly = async <T>(life: SimulatedLife, work: () => Promise<T>): Promise<T> => {
  try {
    return await work();
  } catch (error) {
    if (life.isDead) throw new KilledError();
    throw error;
  }
};

const copy = (from: string, to: string): void => {
  mkdirSync(to);
  for (const name of ['catalogue.sqlite', LOG])
    if (existsSync(join(from, name))) copyFileSync(join(from, name), join(to, name));
};

const openIn = (folder: string): Promise<SqliteCatalogue> =>
  SqliteCatalogue.open({ database: join(folder, 'catalogue.sqlite'), lock: join(folder, 'lock.sqlite') });
