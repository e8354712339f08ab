/**
 * How a disk is cut into blocks and its map into pages (docs/formats/disk-map.md, "Shape"): fan-out 128, one root.
 */
import { CollectiveError } from './errors.js';

export const MAP_FANOUT = 128;
export const DISK_BYTES_MAX = 2 ** 44;
export const BLOCK_BYTES_MIN = 4_096;
export const BLOCK_BYTES_MAX = 1_048_576;

export type DiskShape = {
  /** A multiple of 512, 512 to 2^44. */
  readonly diskBytes: number;
  /** A power of two, 4,096 to 1,048,576. */
  readonly blockBytes: number;
};

export const isDiskBytes = (diskBytes: number): boolean =>
  Number.isSafeInteger(diskBytes) && diskBytes >= 512 && diskBytes <= DISK_BYTES_MAX && diskBytes % 512 === 0;

export const isBlockBytes = (blockBytes: number): boolean =>
  Number.isSafeInteger(blockBytes) &&
  blockBytes >= BLOCK_BYTES_MIN &&
  blockBytes <= BLOCK_BYTES_MAX &&
  (blockBytes & (blockBytes - 1)) === 0;

/** Errors: `malformed` for a size that no disk has. */
export const checkDiskShape = ({ diskBytes, blockBytes }: DiskShape): void => {
  if (!isDiskBytes(diskBytes)) throw new CollectiveError('malformed', `disk: no disk has ${diskBytes} bytes`);
  if (!isBlockBytes(blockBytes)) throw new CollectiveError('malformed', `disk: no block has ${blockBytes} bytes`);
};

/** Blocks of the disk, and levels of its map: 1 when the root is a leaf. The root's level is `levels - 1`. */
export const mapShape = (shape: DiskShape): { readonly blockCount: number; readonly levels: number } => {
  checkDiskShape(shape);
  const blockCount = Math.ceil(shape.diskBytes / shape.blockBytes);
  let levels = 1;
  for (let covered = MAP_FANOUT; covered < blockCount; covered *= MAP_FANOUT) levels += 1;
  return { blockCount, levels };
};

/** How many entries the page of `level` (0 = leaf) at `position` has. */
export const pageEntryCount = (
  blockCount: number,
  page: { readonly level: number; readonly position: number },
): number => {
  const childCount = Math.ceil(blockCount / MAP_FANOUT ** page.level);
  return Math.min(MAP_FANOUT, childCount - page.position * MAP_FANOUT);
};
