/**
 * Which blocks of a version are worth bringing in before it is started, best first, as a function of what is known: what boots touch, in the
 * order of the trace; then what took the place of blocks that are here of the version before, for those were used on this machine; then what sessions of all
 * users touch, what most of them do first (docs/formats/use.md).
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MAP_KIND, type DiskMap } from '@collective/shared';

export const DIGEST_BYTES = 32;
/** Compared in a row, some milliseconds: a disk of 1 TiB has 16 million blocks, and the agent has others to answer. */
const BLOCKS_A_TURN = 16_384;

type Mapped = Pick<DiskMap, 'blockBytes' | 'blockCount' | 'kinds' | 'digestBytes'>;

export type PrefetchKnowledge = {
  readonly map: Mapped;
  /** Block numbers of the trace. */
  readonly traced: readonly number[];
  /** Block numbers of what took the place of blocks that are in the cache. */
  readonly used: readonly number[];
  /** Block numbers of what enough sessions touch. */
  readonly usual: readonly number[];
};

/** Digests, one after the other, each once. */
export const prefetchOrder = ({ map, traced, used, usual }: PrefetchKnowledge): Buffer => {
  const order = new Map<string, Buffer>();
  const add = (block: number): void => {
    if (map.kinds[block] !== MAP_KIND.public) return;
    const digest = digestOf(map, block);
    order.set(digest.toString('latin1'), digest);
  };
  for (const block of traced) add(block);
  for (const block of used) add(block);
  for (const block of usual) add(block);
  return Buffer.concat([...order.values()]);
};

/** Where both have content, and not the same. Nothing for a disk that has other blocks now. */
export const changedBlocks = async (map: Mapped, before: Mapped): Promise<number[]> => {
  if (map.blockBytes !== before.blockBytes) return [];
  const changed: number[] = [];
  for (let block = 0; block < Math.min(map.blockCount, before.blockCount); block += 1) {
    if (block > 0 && block % BLOCKS_A_TURN === 0) await nextTurn();
    if (map.kinds[block] !== MAP_KIND.public || before.kinds[block] !== MAP_KIND.public) continue;
    const [from, to] = [block * DIGEST_BYTES, (block + 1) * DIGEST_BYTES];
    if (map.digestBytes.compare(before.digestBytes, from, to, from, to) !== 0) changed.push(block);
  }
  return changed;
};

/** Their digests, one after the other. */
export const digestsOf = ({ digestBytes }: Pick<Mapped, 'digestBytes'>, blocks: readonly number[]): Buffer => {
  const digests = Buffer.allocUnsafe(blocks.length * DIGEST_BYTES);
  blocks.forEach((block, at) =>
    digestBytes.copy(digests, at * DIGEST_BYTES, block * DIGEST_BYTES, (block + 1) * DIGEST_BYTES),
  );
  return digests;
};

/** Which of the blocks are in the cache. `missing`: the digests of the others, in the order of `blocks`. */
export const blocksHere = (
  before: Pick<Mapped, 'digestBytes'>,
  blocks: readonly number[],
  missing: Buffer,
): number[] => {
  let at = 0;
  return blocks.filter((block) => {
    const [from, to] = [block * DIGEST_BYTES, (block + 1) * DIGEST_BYTES];
    if (at >= missing.length || missing.compare(before.digestBytes, from, to, at, at + DIGEST_BYTES) !== 0) return true;
    at += DIGEST_BYTES;
    return false;
  });
};

const digestOf = ({ digestBytes }: Pick<Mapped, 'digestBytes'>, block: number): Buffer =>
  digestBytes.subarray(block * DIGEST_BYTES, (block + 1) * DIGEST_BYTES);
