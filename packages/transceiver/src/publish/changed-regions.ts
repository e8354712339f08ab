/** What of a disk a publish changes, as a person can read it: neighbouring changed blocks are one region. Pure. */
import type { ChangedPairs } from '@collective/shared';

export type Region = { readonly byteOffset: number; readonly byteLength: number };

const SHOWN_MAX = 12;

export function changedRegions(changes: Pick<ChangedPairs, 'blockIndexes' | 'blockBytes' | 'diskBytes'>): Region[] {
  const { blockBytes, diskBytes } = changes;
  const regions: Region[] = [];
  for (const block of changes.blockIndexes) {
    const byteOffset = block * blockBytes;
    // The last block of a disk may be a part of one.
    const byteLength = Math.min(blockBytes, diskBytes - byteOffset);
    const last = regions.at(-1);
    if (last !== undefined && last.byteOffset + last.byteLength === byteOffset)
      regions[regions.length - 1] = { ...last, byteLength: last.byteLength + byteLength };
    else regions.push({ byteOffset, byteLength });
  }
  return regions;
}

/** A sentence for the publisher: how much, and where; the largest regions when there are many. */
export function describeChanges(disk: string, changes: Parameters<typeof changedRegions>[0]): string {
  const regions = changedRegions(changes);
  const bytes = regions.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const shown = [...regions]
    .sort((a, b) => b.byteLength - a.byteLength)
    .slice(0, SHOWN_MAX)
    .sort((a, b) => a.byteOffset - b.byteOffset)
    .map(({ byteOffset, byteLength }) => `${mib(byteOffset)}–${mib(byteOffset + byteLength)}`);
  const more = regions.length > shown.length ? `, and ${String(regions.length - shown.length)} smaller ones` : '';
  const where = regions.length === 1 ? '1 region' : `${String(regions.length)} regions`;
  return `Disk ${disk}: ${String(changes.blockIndexes.length)} blocks changed, ${mib(bytes)} MiB in ${where} (MiB: ${shown.join(', ')}${more}).`;
}

const mib = (bytes: number): string => (bytes / 1_048_576).toFixed(2);
