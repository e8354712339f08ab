/**
 * What a new version of a disk takes over of an older one's boot trace and of its use: a block whose content is still there is named where it lies now (by digest), one
 * whose content is gone where it lay (by position); where it is known which files lay in a block, wherever these lie now (by file). Pure functions.
 */
import type { Digest } from './brands.js';
import { DIGEST_BYTES } from './digest.js';
import type { DiskMap } from './disk-map.js';
import { type BlockGroup, type DiskUse } from './disk-use.js';
import { MAP_KIND } from './map-page.js';
import { TRACE_TOUCHES_MAX, type BootTrace, type TraceTouch } from './trace.js';

/** Of blocks of the older disk in which files lie: the blocks of the new one where the same parts of the same files are, ascending; none: the files are gone. */
export type FilePlaces = ReadonlyMap<number, readonly number[]>;

/** The disk that inherits. */
export type Heir = {
  readonly map: DiskMap;
  readonly version: number;
  readonly root: Digest;
  readonly byFile?: FilePlaces;
};

export const inheritTrace = (trace: BootTrace, from: DiskMap, to: Heir): BootTrace => {
  const { version, root } = to;
  const placesNow = heirsOf(
    trace.touches.map(({ blockIndex }) => blockIndex),
    from,
    to,
  );
  const named = new Set<number>();
  const touches: TraceTouch[] = [];
  for (const touch of trace.touches) {
    for (const index of placesNow(touch.blockIndex)) {
      if (touches.length >= TRACE_TOUCHES_MAX || named.has(index)) continue;
      named.add(index);
      touches.push({ ...touch, blockIndex: index, chunkBytes: 0 });
    }
  }
  return { version, root, blockBytes: trace.blockBytes, touches };
};

/** No longer than what it inherits: of a block that files lead to several places the first is taken. */
export const inheritUse = (use: DiskUse, from: DiskMap, to: Heir): DiskUse => {
  const { version, root } = to;
  const known = [...use.blocks.map(({ blockIndex }) => blockIndex), ...use.groups.flatMap(({ blocks }) => blocks)];
  const placesNow = heirsOf(known, from, to);
  const counts = new Map<number, number>();
  for (const { blockIndex, records } of use.blocks) {
    const [index] = placesNow(blockIndex);
    if (index !== undefined && !counts.has(index)) counts.set(index, records);
  }
  const grouped = new Set<number>();
  const move = (blocks: readonly number[]): number[] =>
    blocks.flatMap((blockIndex) => {
      const [index] = placesNow(blockIndex);
      if (index === undefined || grouped.has(index)) return [];
      grouped.add(index);
      return [index];
    });
  const groups: BlockGroup[] = [];
  for (const { blocks, triggers } of use.groups) {
    const first = move(blocks.slice(0, triggers));
    const rest = move(blocks.slice(triggers));
    if (first.length > 0 && rest.length > 0) groups.push({ blocks: [...first, ...rest], triggers: first.length });
  }
  const blocks = [...counts]
    .map(([blockIndex, records]) => ({ blockIndex, records }))
    .sort((one, other) => other.records - one.records || one.blockIndex - other.blockIndex);
  return { version, root, blockBytes: use.blockBytes, records: use.records, blocks, groups };
};

/** Where the content of a block of the older disk is wanted in the new one; each of these has content. */
const heirsOf = (
  blocks: readonly number[],
  from: DiskMap,
  { map, byFile }: Pick<Heir, 'map' | 'byFile'>,
): ((blockIndex: number) => readonly number[]) => {
  const places = placesOf(lostDigests(blocks, from, map), map);
  return (blockIndex) => {
    const digest = digestOf(from, blockIndex);
    const isSame = digest === digestOf(map, blockIndex);
    const ofFiles = byFile?.get(blockIndex);
    const place = digest === undefined || isSame ? undefined : places.get(digest);
    // A block that is as it was may be what a deleted file has left: it counts where one of its files is still there.
    const isInPlace = ofFiles === undefined || (isSame && ofFiles.includes(blockIndex));
    return (isInPlace ? [place ?? blockIndex] : ofFiles).filter((index) => digestOf(map, index) !== undefined);
  };
};

/** Of touched blocks, those digests that are not at their place any more. */
const lostDigests = (blocks: readonly number[], from: DiskMap, map: DiskMap): ReadonlySet<string> => {
  const lost = new Set<string>();
  for (const blockIndex of blocks) {
    const digest = digestOf(from, blockIndex);
    if (digest !== undefined && digest !== digestOf(map, blockIndex)) lost.add(digest);
  }
  return lost;
};

/** The first place of each that has one. */
const placesOf = (digests: ReadonlySet<string>, map: DiskMap): ReadonlyMap<string, number> => {
  const places = new Map<string, number>();
  if (digests.size === 0) return places;
  // A digest a block would be a string a block: four bytes of it sort out nearly all.
  const heads = new Set([...digests].map((digest) => Number.parseInt(digest.slice(0, 8), 16)));
  for (let index = 0; index < map.blockCount; index += 1) {
    if (!heads.has(map.digestBytes.readUInt32BE(index * DIGEST_BYTES))) continue;
    const digest = digestOf(map, index);
    if (digest !== undefined && digests.has(digest) && !places.has(digest)) places.set(digest, index);
  }
  return places;
};

/** Undefined: it is all zero, or does not exist. */
const digestOf = (map: DiskMap, index: number): string | undefined =>
  index < map.blockCount && map.kinds[index] === MAP_KIND.public
    ? map.digestBytes.toString('hex', index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES)
    : undefined;
