/**
 * What a session does with a published disk after its boot (docs/formats/use.md). What this one touches is left in a file for the agent to tell: at its end, and
 * now and then before. What others touch together is brought in when the guest touches the first of it: each group once a session, behind the read that
 * says so, and never in the place of another block.
 *
 * Both are hints, as boot traces are: what cannot be read or written of them is said, and nothing else.
 */
import { parse as parsePath } from 'node:path';
import {
  type BlockGroup,
  burstsOf,
  CollectiveError,
  decodeDiskUse,
  DISK_USE_BYTES_MAX,
  encodeUseRecord,
  type UseRecord,
} from '@collective/shared';
import { replaceFileDurably, type FileSystem } from '../storage/file-system.js';
import type { TracedDisk } from './boot-trace.js';
import type { Clock } from './clock.js';
import type { ImageDevice } from './image-device.js';
import type { Recorder } from './recorder.js';

/** A session that is killed, or whose machine loses power, tells of all but its last part. */
export const LEAVE_MS = 30 * 60_000;

/** `use`: the file with what all sessions touch; `session`: where that of this one goes. */
export type UseFiles = { readonly use?: string | undefined; readonly session?: string | undefined };

export type SessionUseOptions = TracedDisk & {
  readonly files: UseFiles;
  readonly image: Pick<ImageDevice, 'bringIfRoom' | 'hasContent'>;
  readonly recorder: Pick<Recorder, 'touches' | 'onFirstTouch'>;
  readonly fileSystem: FileSystem;
  readonly clock: Clock;
  /** Then no group is brought in. */
  readonly isMetered: () => boolean;
  readonly onFailed: (error: unknown) => void;
};

export class SessionUse {
  readonly #options: SessionUseOptions;
  #groups: readonly BlockGroup[] = [];
  /** Of each group that has not been brought in yet, by its triggers. */
  readonly #waiting = new Map<number, BlockGroup>();
  /** Undefined while it boots: so many of the touches are the boot's. */
  #bootTouches: number | undefined;
  /** How many there were when the file was written last. */
  #leftTouches = 0;
  #lastWrite: Promise<void> = Promise.resolve();
  #stopLeaving = (): void => undefined;

  constructor(options: SessionUseOptions) {
    this.#options = options;
  }

  /** From now on touched groups are brought in. */
  async open(): Promise<void> {
    const { files, fileSystem, recorder, root, blockBytes, onFailed } = this.#options;
    if (files.use === undefined) return;
    try {
      const bytes = await fileSystem.readWhole(files.use, DISK_USE_BYTES_MAX);
      if (bytes === undefined) throw new CollectiveError('not-found', `there is no disk use ${files.use}`);
      const use = decodeDiskUse(bytes);
      if (use.root !== root || use.blockBytes !== blockBytes)
        throw new CollectiveError('malformed', `the disk use is of the disk ${use.root}, not of ${root}`);
      this.#groups = use.groups;
    } catch (error) {
      onFailed(error);
      return;
    }
    this.#arm();
    if (this.#groups.length > 0) recorder.onFirstTouch = (blockIndex) => this.#touched(blockIndex);
  }

  /** The guest's first instruction is about to run; the recorder still has what was before. */
  begin(): void {
    this.#leave();
    this.#stopLeaving();
    this.#bootTouches = undefined;
    this.#leftTouches = 0;
    this.#arm();
  }

  /** What is touched from now on is use. */
  bootIsOver(): void {
    this.#bootTouches = this.#options.recorder.touches.length;
    this.#leaveAgain();
  }

  /** The session so far; undefined while it boots, and where the boot touched nothing that travels. */
  get now(): UseRecord | undefined {
    const { version, root, blockBytes, recorder, image } = this.#options;
    if (this.#bootTouches === undefined) return undefined;
    const [boot = [], ...later] = burstsOf(recorder.touches, this.#bootTouches).map((burst) =>
      burst.filter((blockIndex) => image.hasContent(blockIndex)),
    );
    if (boot.length === 0) return undefined;
    return { version, root, blockBytes, bursts: [boot, ...later.filter(({ length }) => length > 0)] };
  }

  /** What it touched is in its file when it resolves. */
  async close(): Promise<void> {
    this.#stopLeaving();
    this.#options.recorder.onFirstTouch = undefined;
    this.#leave();
    await this.#lastWrite;
  }

  #arm(): void {
    this.#waiting.clear();
    for (const group of this.#groups)
      for (const trigger of group.blocks.slice(0, group.triggers)) this.#waiting.set(trigger, group);
  }

  #touched(blockIndex: number): void {
    const group = this.#waiting.get(blockIndex);
    if (group === undefined || this.#options.isMetered()) return;
    for (const trigger of group.blocks.slice(0, group.triggers)) this.#waiting.delete(trigger);
    // The read that has touched it goes first.
    setImmediate(() => this.#options.image.bringIfRoom(group.blocks));
  }

  #leaveAgain(): void {
    this.#stopLeaving();
    this.#stopLeaving = this.#options.clock.after(LEAVE_MS, () => {
      this.#leave();
      this.#leaveAgain();
    });
  }

  #leave(): void {
    const { files, fileSystem, recorder, onFailed } = this.#options;
    const { session } = files;
    const touches = recorder.touches.length;
    if (session === undefined || touches === this.#leftTouches) return;
    const record = this.now;
    if (record === undefined) return;
    this.#leftTouches = touches;
    const bytes = encodeUseRecord(record);
    const { dir, base } = parsePath(session);
    this.#lastWrite = this.#lastWrite
      .then(() => replaceFileDurably(fileSystem, { folder: dir, name: base }, bytes))
      .catch(onFailed);
  }
}
