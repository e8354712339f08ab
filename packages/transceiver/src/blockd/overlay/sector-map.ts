/**
 * Which sectors of a disk a layer holds: one byte per 4 KiB granule, one bit per sector; 0xff means whole.
 *
 * Bits are only ever set, never cleared, as long as the layer lives: that makes every mixture of an older and a newer state
 * legal, which the crash rules lean on. Pages come into being when touched; a page without a gap is one shared constant,
 * so memory grows with the touched places that are not wholly written. Each page remembers what of it was not written to
 * the live map yet, and whether it differs from the durable one.
 */
import { WHOLE } from './geometry.js';

/** Granules in one page of the map, which is also its unit in the files: 16 MiB of disk. */
export const MAP_PAGE_GRANULES = 4096;

const FULL_PAGE = Buffer.alloc(MAP_PAGE_GRANULES, WHOLE);

class MapPage {
  bytes = Buffer.alloc(MAP_PAGE_GRANULES);
  /** Granules [from, to) of the page are not in the live file yet. */
  unpublishedFrom = MAP_PAGE_GRANULES;
  unpublishedTo = 0;
  /** Not in the durable file yet. */
  isUnsynced = false;
}

export class SectorMap {
  readonly granuleCount: number;
  readonly #pages: (MapPage | undefined)[];
  readonly #unpublished: number[] = [];
  readonly #unsynced: number[] = [];

  constructor(granuleCount: number) {
    this.granuleCount = granuleCount;
    this.#pages = new Array<MapPage | undefined>(Math.ceil(granuleCount / MAP_PAGE_GRANULES)).fill(undefined);
  }

  get pageCount(): number {
    return this.#pages.length;
  }

  /** The mask of one granule. */
  get(granule: number): number {
    const page = this.#pages[granule >>> 12];
    return page === undefined ? 0 : (page.bytes[granule & 0xfff] ?? 0);
  }

  /** Sets bits of one granule. */
  add(granule: number, mask: number): void {
    const page = this.#page(granule >>> 12);
    const index = granule & 0xfff;
    const before = page.bytes[index] ?? 0;
    if ((before | mask) === before) return;
    page.bytes[index] = before | mask;
    this.#changed(page, granule >>> 12, index, index + 1);
  }

  /** Makes the granules from `start` up to `end` whole. */
  addWhole(start: number, end: number): void {
    let granule = start;
    while (granule < end) {
      const pageIndex = granule >>> 12;
      const from = granule & 0xfff;
      const to = Math.min(MAP_PAGE_GRANULES, from + (end - granule));
      const page = this.#page(pageIndex);
      if (!isWhole(page.bytes, from, to)) {
        if (from === 0 && to === MAP_PAGE_GRANULES) page.bytes = FULL_PAGE;
        else page.bytes.fill(WHOLE, from, to);
        this.#changed(page, pageIndex, from, to);
      }
      granule += to - from;
    }
  }

  /** The first granule at or after `start` and before `end` that is partly held, or -1. */
  nextPartial(start: number, end: number): number {
    let granule = start;
    while (granule < end) {
      const page = this.#pages[granule >>> 12];
      const pageEnd = Math.min(end, ((granule >>> 12) + 1) * MAP_PAGE_GRANULES);
      if (page !== undefined && page.bytes !== FULL_PAGE) {
        for (; granule < pageEnd; granule += 1) {
          const mask = page.bytes[granule & 0xfff];
          if (mask !== 0 && mask !== WHOLE) return granule;
        }
      }
      granule = pageEnd;
    }
    return -1;
  }

  /** Adds a page as it was found in a file, as published and synced. */
  load(pageIndex: number, bytes: Buffer): void {
    if (bytes.every((mask) => mask === 0)) return;
    const page = this.#page(pageIndex);
    for (let index = 0; index < MAP_PAGE_GRANULES; index += 1)
      page.bytes[index] = (page.bytes[index] ?? 0) | (bytes[index] ?? 0);
    if (page.bytes.equals(FULL_PAGE)) page.bytes = FULL_PAGE;
  }

  /** Says that the page differs from the durable file. */
  noteUnsynced(pageIndex: number): void {
    const page = this.#page(pageIndex);
    if (page.isUnsynced) return;
    page.isUnsynced = true;
    this.#unsynced.push(pageIndex);
  }

  /** The page's bytes, borrowed; undefined when nothing in it is set. */
  pageBytes(pageIndex: number): Buffer | undefined {
    return this.#pages[pageIndex]?.bytes;
  }

  get hasUnpublished(): boolean {
    return this.#unpublished.length > 0;
  }

  get hasUnsynced(): boolean {
    return this.#unsynced.length > 0;
  }

  /**
   * Gives every span of bytes that changed since the last time to `write`, with its granule. What was written is then
   * published; when `write` throws, the rest stays unpublished.
   */
  publish(write: (bytes: Buffer, granule: number) => void): void {
    for (let pageIndex = this.#unpublished.at(-1); pageIndex !== undefined; pageIndex = this.#unpublished.at(-1)) {
      const page = this.#page(pageIndex);
      write(
        page.bytes.subarray(page.unpublishedFrom, page.unpublishedTo),
        pageIndex * MAP_PAGE_GRANULES + page.unpublishedFrom,
      );
      page.unpublishedFrom = MAP_PAGE_GRANULES;
      page.unpublishedTo = 0;
      this.#unpublished.pop();
    }
  }

  /** Copies of the pages that differ from the durable file, in order; they count as synced from now on. */
  takeUnsynced(): { readonly pageIndex: number; readonly bytes: Buffer }[] {
    const pages = this.#unsynced
      .sort((a, b) => a - b)
      .map((pageIndex) => {
        const page = this.#page(pageIndex);
        page.isUnsynced = false;
        return { pageIndex, bytes: page.bytes === FULL_PAGE ? FULL_PAGE : Buffer.from(page.bytes) };
      });
    this.#unsynced.length = 0;
    return pages;
  }

  #page(pageIndex: number): MapPage {
    const page = this.#pages[pageIndex];
    if (page !== undefined) return page;
    const fresh = new MapPage();
    this.#pages[pageIndex] = fresh;
    return fresh;
  }

  #changed(page: MapPage, pageIndex: number, from: number, to: number): void {
    if (page.unpublishedTo === 0) this.#unpublished.push(pageIndex);
    if (from < page.unpublishedFrom) page.unpublishedFrom = from;
    if (to > page.unpublishedTo) page.unpublishedTo = to;
    if (page.isUnsynced) return;
    page.isUnsynced = true;
    this.#unsynced.push(pageIndex);
  }
}

const isWhole = (bytes: Buffer, from: number, to: number): boolean => {
  for (let index = from; index < to; index += 1) if (bytes[index] !== WHOLE) return false;
  return true;
};
