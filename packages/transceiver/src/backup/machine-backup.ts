/**
 * The backup of one machine: the state machine of docs/adr/0020 over backup.json.
 *
 *   (nothing) ─ seal ─► sealed ─ pack ─► packed ─ upload, commit ─► committed ─ take over ─► (nothing, or what was sealed
 *                         ▲                 │                                                meanwhile)
 *                         └── pack again ───┘        lease lost, another head: apart; everything stays as it is
 *
 * Over 400 lines, because it is one state machine with all who wait for it.
 *
 * `step` does one arrow and is safe to repeat after a kill anywhere in it; `run` does them as they come, and waits when
 * the repository is away. Seals may come at any time; steps, and the person's decisions, come one after the other.
 */
import { CollectiveError, type SnapshotReason } from '@collective/shared';
import {
  BackupFile,
  newSubscriptionId,
  PERIOD_SECONDS_DEFAULT,
  type BackupState,
  type DiskBeginning,
  type SealedLayers,
  type Writer,
} from './backup-file.js';
import { BackupPeriod } from './backup-period.js';
import { backupStatus, type BackupActivity, type BackupStatus } from './backup-status.js';
import type { BackupEvent, MachineParts, SettledAs } from './backup-types.js';
import { beginDisks, isHere } from './begin-disks.js';
import { CommittedDisks } from './committed-disks.js';
import { anyHere, disksToSeal, holds } from './disks-to-seal.js';
import { LeaseKeeper } from './lease-keeper.js';
import { LostLook } from './lost-base.js';
import { packPending, type StepContext } from './pack-step.js';
import { isCrowded, isSaved, withSealed } from './pending-seals.js';
import { pinOne } from './pin-step.js';
import { retryAfterMs, troubleOf, type TroubleKind } from './retry-plan.js';
import { SnapshotObjects } from './snapshot-objects.js';
import { noteCommitted } from './commit-note.js';
import { cleanUp, takeOver } from './take-over-step.js';
import { uploadPending, type UploadOutcome } from './upload-step.js';
import { Wakeup } from './wakeup.js';

/** After so many packings of one snapshot in a row something is wrong that packing does not mend. */
const PACKINGS_MAX = 3;

export class MachineBackup {
  readonly parts: MachineParts;
  readonly leases: LeaseKeeper;
  readonly period: BackupPeriod;
  readonly #file: BackupFile;
  readonly #committed: CommittedDisks;
  #objects: SnapshotObjects;
  readonly #wakeup = new Wakeup();
  #seals: Promise<unknown> = Promise.resolve();
  #turn: Promise<unknown> = Promise.resolve();
  #activity: BackupActivity = 'idle';
  #trouble: BackupStatus['trouble'] = null;
  #failures = 0;
  #packings = 0;
  #isDirty = true;
  readonly #lostLook = new LostLook();
  /** The last seal found no place. */
  #isLeftOut = false;
  /**
   * There may be something that no seal covers: an agent that was killed may have missed the machine's end, a seal may have failed or found no
   * place. True at first; false when it was looked at, with nothing on its way and the machine at rest.
   */
  #mayOwe = true;
  #onSaved: () => void = () => undefined;

  private constructor(parts: MachineParts, file: BackupFile) {
    this.parts = parts;
    this.#file = file;
    this.#committed = new CommittedDisks(parts.overlayOf);
    this.#objects = new SnapshotObjects(parts.person.client, file.state.subscription);
    this.period = new BackupPeriod(file, parts.clock);
    this.leases = new LeaseKeeper({
      client: parts.person.client,
      file,
      clock: parts.clock,
      said: async () => ({ unsavedBytes: await this.unsavedBytes(), isRunning: parts.isRunning() }),
      onLost: async (deviceName) => this.#onLeaseLost(deviceName),
    });
  }

  /** Undefined when the machine has no backup yet. Errors: `malformed` for a damaged backup.json. */
  static async open(parts: MachineParts): Promise<MachineBackup | undefined> {
    const file = await BackupFile.open(parts.folder);
    return file === undefined ? undefined : new MachineBackup(parts, file);
  }

  /** Begins the backup of a machine that has none, as a new subscription; needs no network. */
  static async create(
    parts: MachineParts,
    of: {
      readonly appliance: string;
      readonly disks: readonly DiskBeginning[];
      readonly periodSeconds?: number;
      /** The version that writes the disks; null: none was started yet. */
      readonly writer?: Writer | null;
    },
  ): Promise<MachineBackup> {
    const file = await BackupFile.create(parts.folder, {
      ...{ format: 1, subscription: newSubscriptionId(), appliance: of.appliance, isRegistered: false },
      periodSeconds: of.periodSeconds ?? PERIOD_SECONDS_DEFAULT,
      writer: of.writer ?? null,
      disks: of.disks.map((disk) => ({ ...disk, isAttached: true, committed: null })),
      ...{ head: null, objects: [], mustResend: false, mustCommit: false, lease: null },
      ...{ pending: null, next: [], toPin: [], apart: null },
    });
    return new MachineBackup(parts, file);
  }

  get state(): BackupState {
    return this.#file.state;
  }

  get name(): string {
    return this.parts.name;
  }

  /** Of the local disk, all layers together: an upper bound of what is not saved. */
  async unsavedBytes(): Promise<number> {
    let bytes = 0;
    for (const { name } of this.state.disks.filter(isHere)) bytes += await this.parts.disks.heldBytes(name);
    return bytes;
  }

  /**
   * Freezes what was written so far; when it resolves that is durable and will be saved, alone or with what is sealed after
   * it. A periodic one is left out while another is pending, one that has no disk to freeze, and one that comes when so many wait already
   * that there is no place for it: what was written then goes into the next one, whoever writes that. `isOfAll`: also the disks
   * that only an earlier version had. Errors: those of the block path, `disk-full`.
   */
  async seal(reason: SnapshotReason, { isOfAll = false } = {}): Promise<'sealed' | 'left-out'> {
    return (await this.#seal(reason, isOfAll)).length > 0 ? 'sealed' : 'left-out';
  }

  /**
   * As `seal`; resolves when exactly that is committed, whatever is sealed after it, or cannot be for now. Needs `run`. Abort rejects with
   * the signal's reason; the snapshot goes on.
   */
  async save(reason: SnapshotReason, signal: AbortSignal): Promise<SettledAs> {
    for (;;) {
      const layers = await this.#seal(reason, false);
      const isWaitedFor = async (): Promise<boolean> => isSaved(this.state, layers, this.parts.disks);
      const settled =
        layers.length === 0
          ? await this.settled(signal)
          : await this.#kicked(this.#wakeup.settled(signal, isWaitedFor));
      // There is place now.
      if (settled !== 'saved' || layers.length > 0 || !this.#isLeftOut) return settled;
    }
  }

  /** The layers that were sealed; none: it was left out. */
  async #seal(reason: SnapshotReason, isOfAll: boolean): Promise<SealedLayers> {
    return this.#inSealTurn(async () => this.#sealNow(reason, isOfAll)).catch((error: unknown) => {
      this.#mayOwe = true;
      this.kick();
      throw error;
    });
  }

  async #sealNow(reason: SnapshotReason, isOfAll: boolean): Promise<SealedLayers> {
    const { pending, apart, writer } = this.state;
    if (reason === 'periodic' && (pending !== null || apart !== null)) return [];
    const names = await disksToSeal(this.state, this.parts.disks, { isOfAll });
    this.#isLeftOut = await isCrowded(this.state, names, this.parts.disks);
    if (this.#isLeftOut) this.#mayOwe = true;
    if (names.length === 0 || this.#isLeftOut) return [];
    if (writer === null) throw new CollectiveError('internal', `Nobody knows which version wrote ${this.name}.`);
    const createdAt = this.parts.clock.nowSeconds();
    const layers: SealedLayers = [];
    for (const disk of names) {
      layers.push({ disk, layer: (await this.parts.disks.seal(disk)).layer });
      await this.parts.onStep?.('disk-sealed');
    }
    const sealed = { reason, createdAt, layers, writtenBy: writer, mustPin: false };
    await this.#file.update((state) => withSealed(state, sealed));
    await this.parts.onStep?.('seal-noted');
    this.#tell({ event: 'sealed', machine: this.name, reason });
    this.kick();
    return layers;
  }

  async #inSealTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#seals.then(work);
    this.#seals = turn.catch(() => undefined);
    return turn;
  }

  /** Since the last snapshot, also if it was only trimmed. */
  async hasWritten(): Promise<boolean> {
    return anyHere(this.state, async (name) => this.parts.disks.isTouched(name));
  }

  /** Is there something that no seal has covered, though nobody writes any more? Not told while something is on its way. */
  async hasLeftovers(): Promise<boolean> {
    if (this.state.pending !== null) return false;
    if (this.state.mustCommit) return true;
    return anyHere(this.state, async (name) => holds(this.parts.disks, name));
  }

  /** One arrow. `idle`: there is nothing to do until something is sealed. Errors: those that retry-plan.ts sorts. */
  async step(signal: AbortSignal): Promise<'more' | 'idle' | 'apart'> {
    return this.alone(async (context) => {
      if (this.#isDirty) await cleanUp(context);
      this.#isDirty = false;
      const { pending, apart } = this.state;
      // What is committed is ours whatever came after it.
      if (pending?.kind === 'committed') {
        this.#activity = 'taking-over';
        await takeOver(context, pending);
        return 'more';
      }
      if (apart !== null) return 'apart';
      if (!this.parts.isRunning()) await beginDisks(context);
      if (pending === null) return (await pinOne(context, signal)) ? 'more' : this.#sealOwed();
      if (pending.kind === 'sealed') {
        // First: with each commit the repository thins, and a version end of long ago would go before it is pinned.
        if (await pinOne(context, signal)) return 'more';
        return this.#pack(context, signal);
      }
      this.#activity = 'uploading';
      return this.#take(await uploadPending(context, this.leases, signal), context);
    });
  }

  async #pack(context: StepContext, signal: AbortSignal): Promise<'more'> {
    this.#activity = 'packing';
    const packed = await packPending(context, signal).catch(async (error: unknown) =>
      this.#lostLook.explain(context, error, signal),
    );
    if (packed === undefined) this.#tell({ event: 'unchanged', machine: this.name });
    return 'more';
  }

  /**
   * What is here must become a snapshot and nothing is sealed: whoever chose so was killed before the seal, or could not reach the disks, or
   * there was no place for it. Of a machine that is up, or suspended (its layers are its memory's), that is done when it writes or ends.
   */
  async #sealOwed(): Promise<'more' | 'idle'> {
    const { mustCommit } = this.state;
    if (this.parts.isRunning()) return 'idle';
    const isOwed = mustCommit || (this.#mayOwe && (await this.hasLeftovers()));
    // Once: whatever a disk says that it holds, an unchanged one is not sealed for ever.
    this.#mayOwe = false;
    if (!isOwed) return 'idle';
    // Where it fails the step has failed, and is tried again in its time.
    const sealing = this.#inSealTurn(async () => this.#sealNow(mustCommit ? 'request' : 'stop', false));
    const layers = await sealing.catch((error: unknown) => {
      this.#mayOwe = true;
      throw error;
    });
    return layers.length > 0 ? 'more' : 'idle';
  }

  async #take(outcome: UploadOutcome, context: StepContext): Promise<'more' | 'apart'> {
    switch (outcome.kind) {
      case 'committed': {
        const { number, manifest, committedAt } = outcome.head;
        const { pending } = this.state;
        const reason = pending?.reason ?? 'periodic';
        await noteCommitted(context, { number, manifest, committedAt, deviceName: this.parts.person.deviceName });
        this.#committed.committed(this.state);
        this.#packings = 0;
        await this.parts.onStep?.('commit-noted');
        this.#tell({ event: 'saved', machine: this.name, number, committedAt, reason });
        this.#onSaved();
        return 'more';
      }
      case 'pack-again':
        this.#packings += 1;
        if (this.#packings < PACKINGS_MAX) return 'more';
        this.#packings = 0;
        throw new CollectiveError('internal', `The snapshot of ${this.name} was packed again and again.`);
      case 'apart':
        await this.goApart(outcome);
        return 'apart';
      default:
        return outcome satisfies never;
    }
  }

  /** Nothing is sent, and nothing dropped, until the person has chosen (continue.ts). Durable when it resolves. */
  async goApart({ why, head, deviceName }: Omit<Extract<UploadOutcome, { kind: 'apart' }>, 'kind'>): Promise<void> {
    const since = this.parts.clock.nowSeconds();
    await this.#file.update((state) =>
      state.apart === null ? { ...state, apart: { why, since, head, deviceName: deviceName.slice(0, 100) } } : state,
    );
    this.#tell({ event: 'apart', machine: this.name, why, deviceName });
  }

  /** Another device took the lease: apart as soon as there is something here that it does not have. */
  async #onLeaseLost(deviceName: string): Promise<void> {
    const { pending } = this.state;
    const hasOwn =
      this.parts.isRunning() || (pending !== null && pending.kind !== 'committed') || (await this.hasLeftovers());
    // A commit that is under way may have been in time: its own answer says more.
    if (hasOwn && pending?.kind !== 'packed') await this.goApart({ why: 'lease-lost', head: null, deviceName });
    this.kick();
  }

  /** Nothing else of this machine's backup happens meanwhile, but seals. */
  async alone<T>(work: (context: StepContext) => Promise<T>): Promise<T> {
    const turn = this.#turn.then(async () =>
      work({
        ...{ parts: this.parts, file: this.#file, committed: this.#committed, objects: this.#objects },
        inSealTurn: async (sealing) => this.#inSealTurn(sealing),
      }),
    );
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  /** After backup.json was changed from outside the steps: what is held in memory of the committed state is read again. */
  reload(): void {
    this.#committed.forget();
    this.#objects = new SnapshotObjects(this.parts.person.client, this.state.subscription);
    this.#isDirty = true;
    this.kick();
  }

  /** Steps as they come, until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const woken = this.#wakeup.count;
      try {
        const did = await this.step(signal);
        this.#failures = 0;
        this.#trouble = null;
        await this.#wakeup.settleSaved();
        if (did === 'more') continue;
        this.#activity = did;
        if (did === 'idle' && !this.parts.isRunning()) await this.#letGo(signal);
        this.#wakeup.settle(did === 'idle' ? 'saved' : 'apart');
        await this.#wakeup.wait(woken, undefined, this.parts.clock, signal);
      } catch (error) {
        if (signal.aborted) break;
        this.#failures += 1;
        const kind = this.#note(error);
        this.#wakeup.settle(kind);
        const ms = retryAfterMs(kind, this.#failures, Math.random());
        await this.#wakeup.wait(woken, ms, this.parts.clock, signal).catch(() => undefined);
      }
    }
    this.#wakeup.settle('away');
  }

  /** Nobody uses the machine here, and all is saved: another device can have it at once. A start happens in `aside`. */
  async #letGo(signal: AbortSignal): Promise<void> {
    await this.parts.disks.release();
    if (this.leases.lease !== null && !(await this.hasLeftovers()) && this.state.pending === null)
      await this.leases.release(signal);
  }

  /** Whoever listens does not end the backup: what fails there is theirs. */
  #tell(event: BackupEvent): void {
    try {
      this.parts.onEvent?.(event);
    } catch {
      // An event says what has happened already; nobody is left to be told that it was not heard.
    }
  }

  #note(error: unknown): TroubleKind {
    const kind = troubleOf(error);
    const code = error instanceof CollectiveError ? error.code : 'internal';
    const message = error instanceof Error ? error.message : String(error);
    if (this.#trouble?.code !== code) this.#tell({ event: 'trouble', machine: this.name, code, message });
    this.#trouble = { kind, code, message };
    this.#activity = 'waiting';
    return kind;
  }

  /** Called with each new head. */
  onSaved(call: () => void): void {
    this.#onSaved = call;
  }

  /** Tries now what waits: the network is back, somebody logged in, the disk has room. */
  kick(): void {
    this.#wakeup.wake();
  }

  /**
   * When everything that was sealed is saved, and pinned where it must be, or cannot be for now. Needs `run`. Abort rejects with the signal's reason; the
   * snapshot goes on.
   */
  async settled(signal: AbortSignal): Promise<SettledAs> {
    const { pending, apart, toPin, mustCommit } = this.state;
    const mayOwe = this.#mayOwe && !this.parts.isRunning();
    if (pending === null && apart === null && toPin.length === 0 && !mustCommit && !mayOwe) return 'saved';
    return this.#kicked(this.#wakeup.settled(signal));
  }

  async #kicked(settled: Promise<SettledAs>): Promise<SettledAs> {
    this.kick();
    return settled;
  }

  /** Its folder is to get that name when it is opened the next time (agent/moved-machine.ts). Errors: `local-io`. */
  async moveTo(name: string): Promise<void> {
    await this.#file.update((state) => ({ ...state, movesTo: name }));
  }

  async status(): Promise<BackupStatus> {
    const now = { machine: this.name, activity: this.#activity, trouble: this.#trouble };
    return backupStatus(this.state, { ...now, unsavedBytes: await this.unsavedBytes() });
  }
}
