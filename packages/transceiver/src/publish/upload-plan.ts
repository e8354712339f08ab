/**
 * Which blocks of a changed disk may have to travel: each public digest once, with a block where it is found. Pure.
 */
import { MAP_KIND, type ChangedPairs } from '@collective/shared';

export type BlockList = {
  readonly blockIndexes: Uint32Array;
  /** 32 bytes a block, in the same order. */
  readonly digests: Buffer;
};

/** Distinct public blocks of the list, in disk order, leaving out those that `known` holds already (and adding them to it). */
export function distinctBlocks(pairs: ChangedPairs, known: Set<string> = new Set()): BlockList {
  const blockIndexes = new Uint32Array(pairs.count);
  const digests = Buffer.allocUnsafe(pairs.count * 32);
  let count = 0;
  for (let at = 0; at < pairs.count; at += 1) {
    if (pairs.columns.kinds[at] !== MAP_KIND.public) continue;
    // 32 characters of Latin-1 take half the memory of hex.
    const key = pairs.columns.digests.toString('latin1', at * 32, (at + 1) * 32);
    if (known.has(key)) continue;
    known.add(key);
    blockIndexes[count] = pairs.blockIndexes[at] ?? 0;
    pairs.columns.digests.copy(digests, count * 32, at * 32, (at + 1) * 32);
    count += 1;
  }
  return { blockIndexes: blockIndexes.subarray(0, count), digests: digests.subarray(0, count * 32) };
}

/** The part of `list` from `first`, at most `count` blocks. */
export const sliceBlocks = (list: BlockList, first: number, count: number): BlockList => ({
  blockIndexes: list.blockIndexes.slice(first, first + count),
  digests: Buffer.from(list.digests.subarray(first * 32, (first + count) * 32)),
});

/** The blocks of `list` whose digest is in `lacking` (32 bytes each, back to back), in the order of `list`. */
export function lackingBlocks(list: BlockList, lacking: Uint8Array): BlockList {
  const wanted = new Set<string>();
  const bytes = Buffer.from(lacking.buffer, lacking.byteOffset, lacking.byteLength);
  for (let at = 0; at + 32 <= bytes.length; at += 32) wanted.add(bytes.toString('latin1', at, at + 32));
  const blockIndexes: number[] = [];
  const digests: Buffer[] = [];
  list.blockIndexes.forEach((blockIndex, at) => {
    const digest = list.digests.subarray(at * 32, (at + 1) * 32);
    if (!wanted.has(digest.toString('latin1'))) return;
    blockIndexes.push(blockIndex);
    digests.push(digest);
  });
  return { blockIndexes: Uint32Array.from(blockIndexes), digests: Buffer.concat(digests) };
}
