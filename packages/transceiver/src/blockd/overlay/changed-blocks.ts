/** Which blocks of the disk some layers touch: what has to be compared with the committed state. */
import { GRANULE_BYTES } from './geometry.js';
import type { Layer } from './layer.js';
import { MAP_PAGE_GRANULES } from './sector-map.js';

/** Pages of maps (16 MiB of disk each) that are looked through before others get a turn: about a millisecond. */
const PAGES_PER_TURN = 128;

/**
 * Numbers of the blocks of which a layer holds at least one sector, ascending. `blockBytes`: a power of two, at least a granule. The layers
 * must not change meanwhile.
 */
export const changedBlocks = async (
  layers: readonly Layer[],
  disk: { readonly diskBytes: number; readonly blockBytes: number },
): Promise<Uint32Array> => {
  const isChanged = new Uint8Array(Math.ceil(disk.diskBytes / disk.blockBytes));
  const granulesPerBlock = disk.blockBytes / GRANULE_BYTES;
  if (!Number.isInteger(granulesPerBlock)) throw new RangeError(`blocks of ${disk.blockBytes} bytes are no granules`);
  let pagesLeft = PAGES_PER_TURN;
  let count = 0;
  for (const { map } of layers) {
    for (let pageIndex = 0; pageIndex < map.pageCount; pageIndex += 1) {
      const masks = map.pageBytes(pageIndex);
      if (masks === undefined) continue;
      const first = pageIndex * MAP_PAGE_GRANULES;
      for (let index = 0; index < masks.length && first + index < map.granuleCount; index += 1) {
        if (masks[index] === 0) continue;
        const block = Math.floor((first + index) / granulesPerBlock);
        if (isChanged[block] === 0) {
          isChanged[block] = 1;
          count += 1;
        }
        index = (block + 1) * granulesPerBlock - first - 1; // the rest of the block says no more
      }
      if ((pagesLeft -= 1) > 0) continue;
      pagesLeft = PAGES_PER_TURN;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  const blocks = new Uint32Array(count);
  for (let block = 0, at = 0; at < count; block += 1) if (isChanged[block] === 1) blocks[at++] = block;
  return blocks;
};
