/**
 * The boot trace of a user disk (docs/formats/trace.md, "Private trace"): what a boot reads of it, whether that lies in its layers or below, because on
 * another machine all of it has to travel. The file is sealed with a key that the disk's own gives.
 *
 * As every trace it is a hint: the disk is attached without it when something is wrong.
 */
import {
  openPrivateTrace,
  PRIVATE_TRACE_TOUCHES_MAX,
  privateTraceKey,
  sealPrivateTrace,
  USER_DISK,
} from '@collective/shared';
import type { FileSystem } from '../storage/file-system.js';
import { DiskTrace } from './boot-trace.js';
import { systemClock } from './clock.js';
import type { ControlParams } from './control/control-protocol.js';
import type { DiskBelow } from './disk-below.js';
import type { Overlay } from './overlay/overlay.js';
import { Recorder } from './recorder.js';

export type UserDiskTraceParts = {
  readonly fileSystem: FileSystem;
  readonly overlay: Overlay;
  readonly below: Pick<DiskBelow, 'foresee' | 'images'>;
  /** The overlay's, as base64url. */
  readonly key: string;
  readonly onHintFailed: (error: unknown) => void;
};

/** `top` records, over the overlay. What earlier boots touched is asked for when this resolves. */
export const openUserDiskTrace = async (
  { path, blockBytes, replay }: NonNullable<ControlParams<'attach'>['trace']>,
  { fileSystem, overlay, below, key, onHintFailed }: UserDiskTraceParts,
): Promise<{ readonly top: Recorder; readonly trace: DiskTrace }> => {
  const sealKey = privateTraceKey(Buffer.from(key, 'base64url'));
  const recorder = new Recorder(overlay, { blockBytes, clock: systemClock, touchesMax: PRIVATE_TRACE_TOUCHES_MAX });
  // Asked for before anything writes to the disk.
  const held = replay ? await heldBlocks(overlay, blockBytes).catch(onHintFailed) : undefined;
  const trace = new DiskTrace({
    ...{ ...USER_DISK, blockBytes, recorder, fileSystem, clock: systemClock, onFailed: onHintFailed },
    files: { record: path, ...(held === undefined ? {} : { replay: path }) },
    codec: { encode: (made) => sealPrivateTrace(sealKey, made), decode: (box) => openPrivateTrace(sealKey, box) },
    image: {
      foresee: (touches) => below.foresee(touches.filter(({ blockIndex }) => held?.has(blockIndex) !== true)),
      get waiting() {
        return below.images.flatMap(({ waiting }) => waiting);
      },
      hasContent: (blockIndex) => {
        const start = blockIndex * blockBytes;
        const byteLength = Math.min(blockBytes, overlay.byteLength - start);
        return overlay.extents(start, byteLength).some(({ kind }) => kind === 'data');
      },
    },
  });
  await trace.replay();
  return { top: recorder, trace };
};

/** What its own layers have of it is not wanted from below. */
const heldBlocks = async (overlay: Overlay, blockBytes: number): Promise<ReadonlySet<number>> =>
  new Set(await overlay.touchedBlocks(blockBytes));
