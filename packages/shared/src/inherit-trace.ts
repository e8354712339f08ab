/**
 * What a new version of a disk takes over of an older one's boot trace: a block whose content is still there is named where it lies now (by digest), one
 * whose content is gone where it lay (by position); where it is known which files lay in a block, wherever these lie now (by file). A pure function.
 */
import type { Digest } from './brands.js';
import { DIGEST_BYTES } from './digest.js';
import type { DiskMap } from './disk-map.js';
import { MAP_KIND } from './map-page.js';
import { TRACE_TOUCHES_MAX, type BootTrace, type TraceTouch } from './trace.js';

/** Of blocks of the older disk in which files lie: the blocks of the new one where the same parts of the same files are, ascending; none: the files are gone. */
export type FilePlaces = ReadonlyMap<number, readonly number[]>;

export const inheritTrace = (
  trace: BootTrace,
  from: DiskMap,
  to: { readonly map: DiskMap; readonly version: number; readonly root: Digest; readonly byFile?: FilePlaces },
): BootTrace => {
  const { map, version, root, byFile } = to;
  const places = placesOf(lostDigests(trace, from, map), map);
  const named = new Set<number>();
  const touches: TraceTouch[] = [];
  for (const touch of trace.touches) {
    const { blockIndex } = touch;
    const digest = digestOf(from, blockIndex);
    const isSame = digest === digestOf(map, blockIndex);
    const ofFiles = byFile?.get(blockIndex);
    const place = digest === undefined || isSame ? undefined : places.get(digest);
    // A block that is as it was may be what a deleted file has left: it counts where one of its files is still there.
    const isInPlace = ofFiles === undefined || (isSame && ofFiles.includes(blockIndex));
    for (const index of isInPlace ? [place ?? blockIndex] : ofFiles) {
      if (touches.length >= TRACE_TOUCHES_MAX || named.has(index) || digestOf(map, index) === undefined) continue;
      named.add(index);
      touches.push({ ...touch, blockIndex: index, chunkBytes: 0 });
    }
  }
  return { version, root, blockBytes: trace.blockBytes, touches };
};

/** Of touched blocks, those digests that are not at their place any more. */
const lostDigests = ({ touches }: BootTrace, from: DiskMap, map: DiskMap): ReadonlySet<string> => {
  const lost = new Set<string>();
  for (const { blockIndex } of touches) {
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
