/**
 * Boot object, version 1 (docs/formats/trace.md): the blocks of a boot trace in its order, in segments of a few. Each segment is one zstd frame, so that
 * what blocks have in common is sent once and a reader need not have the whole of it; how many blocks and bytes each has is in the trace (trace.ts).
 *
 * A segment says nothing of its blocks: a reader knows the digest of each and checks it.
 */
import { CollectiveError } from './errors.js';
import { SEGMENT_TOUCHES_MAX } from './trace.js';
import { compress, decompressBounded } from './zstd.js';

/** In the beginning the guest waits for each block: small segments are there sooner. */
const FIRST_SEGMENTS: readonly number[] = [2, 2, 4, 8];
const SEGMENT_TOUCHES = 16;

/** How many blocks each segment of an object of so many has. */
export const planSegments = (touchCount: number): number[] => {
  const segments: number[] = [];
  for (let left = touchCount; left > 0;) {
    const touches = Math.min(left, FIRST_SEGMENTS[segments.length] ?? SEGMENT_TOUCHES);
    segments.push(touches);
    left -= touches;
  }
  return segments;
};

/** `blocks`: 1 to SEGMENT_TOUCHES_MAX, all of one length. `level`: 1 to 19. */
export const packSegment = (blocks: readonly Uint8Array[], { level }: { readonly level: number }): Buffer => {
  if (blocks.length < 1 || blocks.length > SEGMENT_TOUCHES_MAX)
    throw new CollectiveError('bad-request', `a segment of ${blocks.length} blocks`);
  return compress(Buffer.concat(blocks), level);
};

/** The blocks of a segment, each `blockBytes` long, unchecked. Errors: `malformed`, `too-large`. */
export const unpackSegment = (
  segment: Uint8Array,
  of: { readonly touches: number; readonly blockBytes: number },
): Buffer[] => {
  const plainBytes = of.touches * of.blockBytes;
  const plain = decompressBounded(segment, plainBytes);
  if (plain.length !== plainBytes)
    throw new CollectiveError('malformed', `a segment of ${plain.length} bytes instead of ${plainBytes}`);
  return Array.from({ length: of.touches }, (_, at) => plain.subarray(at * of.blockBytes, (at + 1) * of.blockBytes));
};
