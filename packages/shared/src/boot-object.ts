/**
 * Boot object (docs/formats/trace.md): the blocks of a boot trace in its order, in segments of a few. A segment is a public chunk whose plain bytes are
 * its blocks one after the other, so that what they have in common is sent once; the trace names each (trace.ts).
 *
 * A trace is not signed: a reader of a segment checks each of its blocks by the digest that the disk's map has for it.
 */
import { type Digest } from './brands.js';
import { CHUNK_PLAIN_BYTES_MAX, encodeChunk, unpackChunk } from './chunk.js';
import { sha256 } from './digest.js';

/** In the beginning the guest waits for each block: small segments are there sooner. */
const FIRST_SEGMENTS: readonly number[] = [2, 2, 4];
/** Eight blocks of a boot are compressed nearly as well as all together; what is wanted before the others costs little twice. */
const SEGMENT_TOUCHES = 8;

/** How many blocks each segment of so many has; none has one alone, which would be that block's own chunk. Nothing for blocks of more than 256 KiB. */
export const planSegments = (touchCount: number, { blockBytes }: { readonly blockBytes: number }): number[] => {
  const most = Math.min(SEGMENT_TOUCHES, Math.floor(CHUNK_PLAIN_BYTES_MAX / blockBytes));
  const segments: number[] = [];
  if (most < 3 || touchCount < 2) return segments;
  for (let left = touchCount; left > 0;) {
    const wanted = Math.min(left, most, FIRST_SEGMENTS[segments.length] ?? SEGMENT_TOUCHES);
    const isOneLeft = left - wanted === 1;
    const touches = isOneLeft ? wanted + (wanted < most ? 1 : -1) : wanted;
    segments.push(touches);
    left -= touches;
  }
  return segments;
};

/** The chunk that holds these blocks, all of one length and 1 MiB at most together. `level`: 1 to 19. */
export const encodeSegment = (
  blocks: readonly Uint8Array[],
  options: { readonly level: number },
): { readonly digest: Digest; readonly chunk: Buffer } => {
  const plain = Buffer.concat(blocks);
  return { digest: sha256(plain), chunk: encodeChunk(plain, options) };
};

/** The blocks of a segment, whose own digests nobody has checked yet. Errors: those of decodeChunk but `digest-mismatch` of the content. */
export const decodeSegment = (
  chunk: Uint8Array,
  of: { readonly touches: number; readonly blockBytes: number },
): Buffer[] => {
  const plain = unpackChunk(chunk, { plainBytes: of.touches * of.blockBytes });
  return Array.from({ length: of.touches }, (_, at) => plain.subarray(at * of.blockBytes, (at + 1) * of.blockBytes));
};
