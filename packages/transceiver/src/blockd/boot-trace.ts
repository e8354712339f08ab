/**
 * The boot trace of one disk (docs/formats/trace.md): that of earlier boots is fetched ahead of the guest, that of this one is written to
 * a file when the boot is over. Both are hints: what cannot be read or written of them is said, and nothing else.
 *
 * A boot is over when the guest, while it waits for no block of any disk, has touched nothing new on any of them for a while: one that waits for its user
 * disk leaves the others alone, and is not done with them. One that ends before that leaves no file.
 */
import { parse as parsePath } from 'node:path';
import {
  BOOT_PHASE,
  CollectiveError,
  decodeBootTrace,
  encodeBootTrace,
  TRACE_BYTES_MAX,
  type BootPhase,
  type BootSegment,
  type BootTrace,
  type Digest,
  type TraceTouch,
} from '@collective/shared';
import { replaceFileDurably, type FileSystem } from '../storage/file-system.js';
import type { Clock } from './clock.js';
import type { ImageDevice } from './image-device.js';
import type { Recorder } from './recorder.js';
import type { SessionUse } from './session-use.js';
import { dueOf, NOTHING_ASKED, type Asked } from './trace-pace.js';

const IN_THE_CLEAR: TraceCodec = { encode: encodeBootTrace, decode: decodeBootTrace };
const LOOK_MS = 1_000;
const PACE_MS = 250;
/** Longer than a guest without KVM computes between two reads of a boot. */
export const QUIET_MS = 20_000;

/** Of which disk it is. */
export type TracedDisk = { readonly version: number; readonly root: Digest; readonly blockBytes: number };
/** `replay`: the file with the trace of earlier boots; `record`: where that of this one goes. */
export type TraceFiles = { readonly replay?: string | undefined; readonly record?: string | undefined };

/** How the files are written. */
export type TraceCodec = {
  readonly encode: (trace: BootTrace) => Buffer;
  readonly decode: (bytes: Buffer) => BootTrace;
};

export type DiskTraceOptions = TracedDisk & {
  readonly files: TraceFiles;
  /** Absent: in the clear. */
  readonly codec?: TraceCodec;
  readonly image: Pick<ImageDevice, 'foresee' | 'hasContent' | 'waiting'>;
  readonly recorder: Pick<Recorder, 'restart' | 'setPhase' | 'touches'>;
  /** What follows the boot; of a published disk. */
  readonly use?: Pick<SessionUse, 'begin' | 'bootIsOver'>;
  readonly fileSystem: FileSystem;
  readonly clock: Clock;
  readonly onFailed: (error: unknown) => void;
};

type AskedTrace = {
  readonly touches: readonly TraceTouch[];
  readonly segments: readonly BootSegment[];
  readonly named: ReadonlySet<number>;
};

/** Of all disks of the machine. */
export type GuestReads = {
  readonly isWaiting: boolean;
  /** First touches since the boot began. */
  readonly touches: number;
};

export class DiskTrace {
  readonly #options: DiskTraceOptions;
  #stopLooking = (): void => undefined;
  #stopAsking = (): void => undefined;
  /** Before that, no time is the guest's. */
  #hasBegun = false;
  #isClosed = false;

  constructor(options: DiskTraceOptions) {
    this.#options = options;
  }

  /** Asks for what earlier boots touched, from now on ahead of the guest (trace-pace.ts). */
  async replay(): Promise<void> {
    const { files, fileSystem, onFailed } = this.#options;
    if (files.replay === undefined) return;
    try {
      const bytes = await fileSystem.readWhole(files.replay, TRACE_BYTES_MAX);
      if (bytes === undefined) throw new CollectiveError('not-found', `there is no trace ${files.replay}`);
      const { touches, segments = [] } = this.#ofThisDisk(this.#codec.decode(bytes));
      const named = new Set(touches.map(({ blockIndex }) => blockIndex));
      this.#askAhead({ touches, segments, named }, { asked: NOTHING_ASKED, elapsedMs: 0 });
    } catch (error) {
      onFailed(error);
    }
  }

  #askAhead(trace: AskedTrace, { asked, elapsedMs }: { readonly asked: Asked; readonly elapsedMs: number }): void {
    const { clock, image, recorder, onFailed } = this.#options;
    if (this.#isClosed) return;
    const touched = recorder.touches.filter(({ blockIndex }) => trace.named.has(blockIndex)).length;
    const due = dueOf(trace, { elapsedMs, touched }, asked);
    if (due.touches > asked.touches)
      image.foresee(
        trace.touches.slice(asked.touches, due.touches),
        trace.segments.slice(asked.segments, due.segments),
      );
    if (due.touches === trace.touches.length) return;
    const askedAtMs = clock.nowMs();
    this.#stopAsking = clock.after(PACE_MS, () => {
      // A guest that waits for a block is not further than it was.
      const passedMs = image.waiting.length > 0 || !this.#hasBegun ? 0 : clock.nowMs() - askedAtMs;
      try {
        this.#askAhead(trace, { asked: due, elapsedMs: elapsedMs + passedMs });
      } catch (error) {
        onFailed(error);
      }
    });
  }

  /** The guest's first instruction is about to run. */
  begin(guest: () => GuestReads): void {
    const { recorder, files, clock, use } = this.#options;
    this.#hasBegun = true;
    use?.begin();
    recorder.restart();
    this.#stopLooking();
    if (files.record === undefined) return;
    this.#lookAgain(guest, { touches: 0, sinceMs: clock.nowMs() });
  }

  get touchCount(): number {
    return this.#options.recorder.touches.length;
  }

  setPhase(phase: BootPhase): void {
    this.#options.recorder.setPhase(phase);
  }

  /** First touches since the boot began, of blocks that travel. */
  get now(): BootTrace {
    const { version, root, blockBytes, recorder, image } = this.#options;
    const touches = recorder.touches.filter(({ blockIndex }) => image.hasContent(blockIndex));
    return { version, root, blockBytes, touches };
  }

  close(): void {
    this.#isClosed = true;
    this.#stopLooking();
    this.#stopAsking();
  }

  #lookAgain(guest: () => GuestReads, quiet: { readonly touches: number; readonly sinceMs: number }): void {
    const { clock, recorder } = this.#options;
    this.#stopLooking = clock.after(LOOK_MS, () => {
      const { touches, isWaiting } = guest();
      const nowMs = clock.nowMs();
      const isQuiet = recorder.touches.length > 0 && touches === quiet.touches && !isWaiting;
      if (isQuiet && nowMs - quiet.sinceMs >= QUIET_MS) void this.#write();
      else this.#lookAgain(guest, isQuiet ? quiet : { touches, sinceMs: nowMs });
    });
  }

  async #write(): Promise<void> {
    const { files, fileSystem, use, onFailed } = this.#options;
    use?.bootIsOver();
    if (files.record === undefined) return;
    const { dir, base } = parsePath(files.record);
    try {
      const trace = this.now;
      if (await this.#isRecorded(files.record, trace)) return;
      await replaceFileDurably(fileSystem, { folder: dir, name: base }, this.#codec.encode(trace));
    } catch (error) {
      onFailed(error);
    }
  }

  /** The same blocks in another order are no news, but where the prompt came among them is, when it was not known: what is kept, and where, stays as it is. */
  async #isRecorded(file: string, { touches }: BootTrace): Promise<boolean> {
    try {
      const bytes = await this.#options.fileSystem.readWhole(file, TRACE_BYTES_MAX);
      if (bytes === undefined) return false;
      const recorded = this.#ofThisDisk(this.#codec.decode(bytes)).touches;
      if (touches.some(isIdle) && !recorded.some(isIdle)) return false;
      const before = new Set(recorded.map(({ blockIndex }) => blockIndex));
      return before.size === touches.length && touches.every(({ blockIndex }) => before.has(blockIndex));
    } catch {
      return false; // damaged, or of another disk: it is replaced
    }
  }

  get #codec(): TraceCodec {
    return this.#options.codec ?? IN_THE_CLEAR;
  }

  #ofThisDisk(trace: BootTrace): BootTrace {
    const { root, blockBytes } = this.#options;
    if (trace.root !== root || trace.blockBytes !== blockBytes)
      throw new CollectiveError('malformed', `the trace is of the disk ${trace.root}, not of ${root}`);
    return trace;
  }
}

const isIdle = ({ phase }: TraceTouch): boolean => phase === BOOT_PHASE.idle;
