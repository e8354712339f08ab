/** A range of the disk as runs that one layer, or the disk below, holds. */
import { GRANULE_BYTES, granuleOf, SECTOR_BYTES } from './geometry.js';
import { MIXED, type LayerOwners } from './layer-owners.js';

/** Bytes [start, end) are held by layer `owner`, or by none (BELOW). */
export type Segment = { readonly owner: number; readonly start: number; readonly end: number };

/** Covers [start, end) in order; neighbours have different owners. */
export const segmentsOf = (owners: LayerOwners, start: number, end: number): Segment[] => {
  const segments: Segment[] = [];
  let runOwner = MIXED;
  let runStart = start;
  const take = (owner: number, at: number): void => {
    if (owner === runOwner) return;
    if (at > runStart) segments.push({ owner: runOwner, start: runStart, end: at });
    runOwner = owner;
    runStart = at;
  };
  let position = start;
  while (position < end) {
    const granule = granuleOf(position);
    const granuleEnd = Math.min((granule + 1) * GRANULE_BYTES, end);
    const owner = owners.ownerOf(granule);
    if (owner !== MIXED) take(owner, position);
    else {
      for (let at = position; at < granuleEnd; at = (Math.floor(at / SECTOR_BYTES) + 1) * SECTOR_BYTES) {
        take(owners.sectorOwnerOf(Math.floor(at / SECTOR_BYTES)), at);
      }
    }
    position = granuleEnd;
  }
  if (end > runStart) segments.push({ owner: runOwner, start: runStart, end });
  return segments;
};
