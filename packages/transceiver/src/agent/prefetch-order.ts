/**
 * Which blocks of a version are worth bringing in before it is started, best first, as a function of what is known: what boots touch, in the
 * order of the trace; then what took the place of blocks that are here of the version before, for those were used on this machine.
 */
import { MAP_KIND, type DiskMap } from '@collective/shared';

const DIGEST_BYTES = 32;

type Mapped = Pick<DiskMap, 'blockBytes' | 'blockCount' | 'kinds' | 'digestBytes'>;

export type PrefetchKnowledge = {
  readonly map: Mapped;
  /** Block numbers of the trace. */
  readonly traced: readonly number[];
  /** The newest version before it that is known here, and whether one of its blocks is in the cache. */
  readonly before?: { readonly map: Mapped; readonly isHere: (digest: Buffer) => boolean };
};

/** Digests, one after the other, each once. */
export const prefetchOrder = ({ map, traced, before }: PrefetchKnowledge): Buffer => {
  const order = new Map<string, Buffer>();
  const add = (block: number): void => {
    if (map.kinds[block] !== MAP_KIND.public) return;
    const digest = digestOf(map, block);
    order.set(digest.toString('latin1'), digest);
  };
  for (const block of traced) add(block);
  if (before !== undefined)
    for (const block of changedBlocks(map, before.map)) if (before.isHere(digestOf(before.map, block))) add(block);
  return Buffer.concat([...order.values()]);
};

/** Where both have content, and not the same. Nothing for a disk that has other blocks now. */
export const changedBlocks = (map: Mapped, before: Mapped): number[] => {
  if (map.blockBytes !== before.blockBytes) return [];
  const changed: number[] = [];
  for (let block = 0; block < Math.min(map.blockCount, before.blockCount); block += 1) {
    if (map.kinds[block] !== MAP_KIND.public || before.kinds[block] !== MAP_KIND.public) continue;
    if (!digestOf(map, block).equals(digestOf(before, block))) changed.push(block);
  }
  return changed;
};

export const digestOf = ({ digestBytes }: Pick<Mapped, 'digestBytes'>, block: number): Buffer =>
  digestBytes.subarray(block * DIGEST_BYTES, (block + 1) * DIGEST_BYTES);
