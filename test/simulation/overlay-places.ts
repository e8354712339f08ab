/**
 * Which places of a simulated disk a history uses. The model numbers only these sectors, without gaps, so that a disk whose maps have several
 * pages (one for each 16 MiB) costs no more than one of 64 KiB.
 */
import { SECTOR_BYTES } from './overlay-model.js';
import type { Random } from './random.js';

const MAP_PAGE_BYTES = 16 << 20;

/** Model sectors [first, end) lie at `byteOffset` of the disk, in one piece. Begins, and unless it is the disk's end also ends, with a granule. */
export type Place = { readonly first: number; readonly end: number; readonly byteOffset: number };

export class Places {
  readonly list: readonly Place[];
  readonly diskBytes: number;
  readonly sectorCount: number;

  constructor(pieces: readonly { readonly byteOffset: number; readonly sectors: number }[]) {
    const list: Place[] = [];
    let first = 0;
    for (const { byteOffset, sectors } of pieces) {
      list.push({ first, end: first + sectors, byteOffset });
      first += sectors;
    }
    const last = pieces.at(-1);
    if (last === undefined) throw new RangeError('a disk without a place');
    this.list = list;
    this.sectorCount = first;
    this.diskBytes = last.byteOffset + last.sectors * SECTOR_BYTES;
  }

  /** A small disk, or one of three map pages that is used at its beginning, across its first map pages' border, and at its end. */
  static random(random: Random): Places {
    const tail = random.pick([0, 0, 1, 3]);
    if (random.chance(0.6)) return new Places([{ byteOffset: 0, sectors: random.between(1, 24) * 8 + tail }]);
    const before = random.between(1, 4);
    return new Places([
      { byteOffset: 0, sectors: random.between(1, 4) * 8 },
      { byteOffset: MAP_PAGE_BYTES - before * 4096, sectors: (before + random.between(1, 4)) * 8 },
      { byteOffset: 2 * MAP_PAGE_BYTES + 4096 * random.int(5), sectors: random.between(1, 4) * 8 + tail },
    ]);
  }

  placeOf(sector: number): Place {
    const place = this.list.find(({ first, end }) => first <= sector && sector < end);
    if (place === undefined) throw new RangeError(`sector ${sector} of ${this.sectorCount}`);
    return place;
  }

  /** Where the sector lies on the disk. */
  byteOffsetOf(sector: number): number {
    const { first, byteOffset } = this.placeOf(sector);
    return byteOffset + (sector - first) * SECTOR_BYTES;
  }

  /** Where a range of the disk lies in a buffer of all model sectors. Throws when it leaves the places. */
  bufferOffsetOf(byteOffset: number, byteLength: number): number {
    for (const place of this.list) {
      const at = byteOffset - place.byteOffset;
      if (at >= 0 && at + byteLength <= (place.end - place.first) * SECTOR_BYTES)
        return place.first * SECTOR_BYTES + at;
    }
    throw new RangeError(`bytes ${byteOffset} to ${byteOffset + byteLength} are no place that is used`);
  }
}
