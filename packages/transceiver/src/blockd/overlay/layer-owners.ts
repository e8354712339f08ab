/** Who of a list of layers, from the bottom to the top, holds what of the disk. */
import { SECTORS_PER_GRANULE, WHOLE } from './geometry.js';
import type { Layer } from './layer.js';

/** Who holds a granule: an index of `layers`, BELOW (no layer), or MIXED (it differs from sector to sector). */
export const BELOW = -1;
export const MIXED = -2;

/** Layers that are read as one. */
export interface LayerOwners {
  /** From the bottom to the top. Another list after each change. */
  readonly layers: readonly Layer[];
  ownerOf(granule: number): number;
  /** Who holds one sector: an index of `layers`, or BELOW. */
  sectorOwnerOf(sector: number): number;
}

export const ownerOfGranule = (layers: readonly Layer[], granule: number): number => {
  for (let index = layers.length - 1; index >= 0; index -= 1) {
    const mask = layers[index]?.map.get(granule) ?? 0;
    if (mask === WHOLE) return index;
    if (mask !== 0) return MIXED;
  }
  return BELOW;
};

export const ownerOfSector = (layers: readonly Layer[], sector: number): number => {
  const granule = Math.floor(sector / SECTORS_PER_GRANULE);
  const bit = 1 << (sector % SECTORS_PER_GRANULE);
  for (let index = layers.length - 1; index >= 0; index -= 1) {
    if (((layers[index]?.map.get(granule) ?? 0) & bit) !== 0) return index;
  }
  return BELOW;
};
