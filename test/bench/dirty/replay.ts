/**
 * A day replayed over the rig: each write at its time, and all along what is not backed up, what that takes of the local disk, and when which
 * snapshot was sealed and saved.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { BackupEvent } from '@collective/transceiver';
import { DISK, type BackupRig } from './backup-rig.js';
import type { Day, DayMark, DayWrite } from './day-model.js';
import type { DirtyDisk } from './dirty-disk.js';
import type { HybridClock } from './hybrid-clock.js';

/** The paper's idle: so long without keyboard and mouse. */
export const IDLE_SECONDS = 300;
const SAMPLE_SECONDS = 5;
const LOCAL_REAL_MS = 100;
const POLL_REAL_MS = 3;
/** What was woken may take so long to begin something that shows. */
const WAKE_REAL_MS = 15;

export type IdleMoment = {
  readonly atSeconds: number;
  readonly doing: string;
  /** Granules that were written and are in no committed snapshot, in bytes. */
  readonly dirtyBytes: number;
  /** The same five minutes later, when the paper calls it idle. */
  dirtyBytesThen: number;
  /** Until the repository had all of it. */
  savedAfterSeconds: number;
};
export type Snapshot = { readonly sealedAtSeconds: number; readonly savedAtSeconds: number };
/** `changes` of the local disk for `changed` bytes that have not been saved and taken over. */
export type LocalSample = { readonly changed: number; readonly changes: number; readonly maps: number };
export type DayRun = {
  readonly series: readonly { readonly atSeconds: number; readonly dirtyBytes: number }[];
  readonly idles: readonly IdleMoment[];
  readonly snapshots: readonly Snapshot[];
  readonly local: readonly LocalSample[];
  readonly layersMost: number;
  readonly daySeconds: number;
  readonly writtenBytes: number;
  readonly sentBytes: number;
  /** How late a write went out at most: the replay kept up when it is small. */
  readonly latenessSeconds: number;
  /** How long the machine kept the replay from running; not in the times of the day. */
  readonly stoodStillSeconds: number;
  /** What the backup lived with: none is expected. */
  readonly troubles: readonly string[];
};

/** What happens to the backup, as the rig tells it; made before the rig. */
export class BackupWatch {
  readonly #cuts = new Map<string, number>();
  disk: DirtyDisk | undefined;
  onEvent: (event: BackupEvent) => void = () => undefined;

  readonly onSeal = (): ((layer: string) => void) => {
    const cut = this.disk?.acknowledged ?? 0;
    return (layer) => void this.#cuts.set(layer, cut);
  };

  cutOf(layer: string): number {
    return this.#cuts.get(layer) ?? 0;
  }
}

export class Replay {
  readonly #rig: BackupRig;
  readonly #clock: HybridClock;
  readonly #disk: DirtyDisk;
  readonly #watch: BackupWatch;
  readonly #beginMs: number;
  readonly #series: { atSeconds: number; dirtyBytes: number }[] = [];
  readonly #idles: (IdleMoment & { readonly write: number })[] = [];
  readonly #snapshots: Snapshot[] = [];
  readonly #local: LocalSample[] = [];
  readonly #waiting: { readonly atSeconds: number; readonly idle: IdleMoment }[] = [];
  /** Up to which write everything is in a committed snapshot; and in one whose layers have gone. */
  #savedCut = 0;
  #takenCut = 0;
  #sealedAtSeconds = 0;
  readonly #troubles: string[] = [];
  #failure: Error | undefined;
  #layersMost = 0;
  #latenessSeconds = 0;
  #sampledSeconds = Number.NEGATIVE_INFINITY;
  #localRealMs = 0;

  private constructor(rig: BackupRig, clock: HybridClock, disk: DirtyDisk, watch: BackupWatch) {
    this.#rig = rig;
    this.#clock = clock;
    this.#disk = disk;
    this.#watch = watch;
    this.#beginMs = clock.nowMs();
    this.#savedCut = disk.acknowledged;
    this.#takenCut = disk.acknowledged;
  }

  /** What the disk holds at the beginning of the day must be saved. `drain`: goes on until the last of it is saved. */
  static async run(
    day: Day,
    on: {
      readonly rig: BackupRig;
      readonly clock: HybridClock;
      readonly disk: DirtyDisk;
      readonly watch: BackupWatch;
      readonly drain: boolean;
    },
  ): Promise<DayRun> {
    const replay = new Replay(on.rig, on.clock, on.disk, on.watch);
    on.watch.onEvent = (event) => replay.#backupEvent(event);
    const sentBefore = on.rig.transferred.sentBytes;
    const writtenBefore = on.disk.writtenBytes;
    for (const event of day.events) {
      await replay.#until(event.atSeconds);
      replay.#latenessSeconds = Math.max(replay.#latenessSeconds, replay.#nowSeconds - event.atSeconds);
      await (event.kind === 'write' ? replay.#write(event) : replay.#mark(event));
    }
    const daySeconds = replay.#nowSeconds;
    const isOpen = (): boolean =>
      replay.#waiting.length > 0 || replay.#idles.some(({ savedAfterSeconds }) => Number.isNaN(savedAfterSeconds));
    while (on.drain && isOpen()) await replay.#until(replay.#nowSeconds + 1);
    on.watch.onEvent = () => undefined;
    return {
      ...{ series: replay.#series, idles: replay.#idles, snapshots: replay.#snapshots, local: replay.#local },
      ...{ layersMost: replay.#layersMost, daySeconds, latenessSeconds: replay.#latenessSeconds },
      troubles: replay.#troubles,
      stoodStillSeconds: on.clock.stoodStillMs / 1_000,
      writtenBytes: on.disk.writtenBytes - writtenBefore,
      sentBytes: on.rig.transferred.sentBytes - sentBefore,
    };
  }

  get #nowSeconds(): number {
    return (this.#clock.nowMs() - this.#beginMs) / 1_000;
  }

  async #write({ byteOffset, byteLength, keep, isSynced }: DayWrite): Promise<void> {
    await this.#disk.write(byteOffset, byteLength, keep);
    if (isSynced) await this.#disk.flush();
    this.#sample();
  }

  async #mark({ kind, atSeconds, doing }: DayMark): Promise<void> {
    if (kind === 'active') return;
    const write = this.#disk.acknowledged;
    const dirtyBytes = this.#disk.changedBytesSince(this.#savedCut);
    const savedAfterSeconds = write <= this.#savedCut ? 0 : Number.NaN;
    const idle = { atSeconds, doing, dirtyBytes, dirtyBytesThen: Number.NaN, savedAfterSeconds, write };
    this.#idles.push(idle);
    this.#waiting.push({ atSeconds: atSeconds + IDLE_SECONDS, idle });
    this.#sample({ isForced: true });
  }

  /** Until that second of the day: by itself while something is under way, else at once. */
  async #until(seconds: number): Promise<void> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const due = this.#waiting[0];
      const target = Math.min(seconds, due?.atSeconds ?? Number.POSITIVE_INFINITY);
      if (this.#nowSeconds >= target) {
        if (due === undefined || due.atSeconds > this.#nowSeconds) return;
        this.#waiting.shift();
        due.idle.dirtyBytesThen = this.#disk.changedBytesSince(this.#savedCut);
        continue;
      }
      this.#sample();
      await this.#look();
      if (this.#rig.isBusy || this.#clock.sinceWakeRealMs < WAKE_REAL_MS)
        await delay(Math.min(POLL_REAL_MS, ((target - this.#nowSeconds) * 1_000) / this.#clock.rate));
      else this.#clock.jumpTo(Math.min(this.#beginMs + target * 1_000, this.#clock.nextWakeMs));
    }
  }

  #sample({ isForced = false }: { readonly isForced?: boolean } = {}): void {
    const atSeconds = this.#nowSeconds;
    if (!isForced && atSeconds - this.#sampledSeconds < SAMPLE_SECONDS) return;
    this.#sampledSeconds = atSeconds;
    this.#series.push({ atSeconds, dirtyBytes: this.#disk.changedBytesSince(this.#savedCut) });
  }

  /** At the local disk, while something is under way. */
  async #look(): Promise<void> {
    const { pending } = this.#rig.backup.state;
    if (pending?.kind !== 'committed') this.#takenCut = this.#savedCut;
    if (pending === null || performance.now() - this.#localRealMs < LOCAL_REAL_MS) return;
    const before = this.#disk.changedBytesSince(this.#takenCut);
    const { changes, maps } = await this.#rig.localBytes();
    this.#local.push({ changed: Math.max(before, this.#disk.changedBytesSince(this.#takenCut)), changes, maps });
    const layers = await this.#rig.backup.parts.disks.sealedLayers(DISK);
    this.#layersMost = Math.max(this.#layersMost, layers.length + 1);
    this.#localRealMs = performance.now();
  }

  #backupEvent(event: BackupEvent): void {
    const atSeconds = this.#nowSeconds;
    if (event.event === 'sealed') this.#sealedAtSeconds = atSeconds;
    // It mends itself, and is part of the day; nobody may be thrown at from here: the backup would end.
    if (event.event === 'trouble') this.#troubles.push(event.message);
    if (event.event === 'apart') this.#failure = new Error(`the backup is apart: ${JSON.stringify(event)}`);
    if (event.event !== 'saved' && event.event !== 'unchanged') return;
    const layer = this.#rig.backup.state.pending?.layers.find(({ disk }) => disk === DISK)?.layer;
    if (layer !== undefined) this.#savedCut = Math.max(this.#savedCut, this.#watch.cutOf(layer));
    if (event.event === 'saved')
      this.#snapshots.push({ sealedAtSeconds: this.#sealedAtSeconds, savedAtSeconds: atSeconds });
    for (const idle of this.#idles)
      if (Number.isNaN(idle.savedAfterSeconds) && idle.write <= this.#savedCut)
        idle.savedAfterSeconds = atSeconds - idle.atSeconds;
    this.#sample({ isForced: true });
  }
}
