/** Which segments of a boot object are worth reading, as a function of what is missing. */
import type { ObjectSegment } from './block-store.js';

/** `chunkBytes`: of the chunk by itself, where that is known. */
export type MissingBlock = { readonly chunkBytes?: number | undefined; readonly segment: ObjectSegment | undefined };

/** Those that are shorter than the chunks of their missing blocks together. Where the length of one is not known, more than half are missing. */
export const segmentsWorthReading = (missing: readonly MissingBlock[]): ReadonlySet<ObjectSegment> => {
  const sums = new Map<ObjectSegment, { blocks: number; bytes: number; isKnown: boolean }>();
  for (const { segment, chunkBytes } of missing) {
    if (segment === undefined) continue;
    const sum = sums.get(segment) ?? { blocks: 0, bytes: 0, isKnown: true };
    sums.set(segment, {
      blocks: sum.blocks + 1,
      bytes: sum.bytes + (chunkBytes ?? 0),
      isKnown: sum.isKnown && chunkBytes !== undefined,
    });
  }
  const worth = new Set<ObjectSegment>();
  for (const [segment, { blocks, bytes, isKnown }] of sums)
    if (isKnown ? bytes >= segment.chunkBytes : blocks * 2 > segment.digests.length) worth.add(segment);
  return worth;
};
