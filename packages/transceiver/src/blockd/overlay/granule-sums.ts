/**
 * The crc32 of whole granules of a layer's data as they were last written, or first read: 4 bytes a granule, in pages that come into being when
 * touched. A granule that has none is unknown, and a read of it is believed.
 *
 * A sum that is wrong where the data is right loses an acknowledged write, so whoever changes a granule sets its sum, or forgets it, before
 * the change can be compared with it (layer-data.ts).
 */
import { crc32 } from 'node:zlib';
import { GRANULE_BYTES } from './geometry.js';

/** Granules in one page: 16 MiB of disk, as in the maps. */
export const SUMS_PAGE_GRANULES = 4096;

/** Stands for "unknown", so that a crc of 0 is kept as its complement. */
const UNKNOWN = 0;

/** The sum of one granule (the last one of a disk may be shorter). */
export const granuleSumOf = (bytes: Uint8Array): number => crc32(bytes) || 0xffff_ffff;

const ZERO_SUM = granuleSumOf(Buffer.alloc(GRANULE_BYTES));
/** Shared by all pages whose granules are all zeroes, so that a trim of terabytes costs nothing. Never written to. */
export const ZERO_SUMS_PAGE = new Uint32Array(SUMS_PAGE_GRANULES).fill(ZERO_SUM);

export class GranuleSums {
  readonly granuleCount: number;
  /** Some have been set that were not loaded. Whoever saves them takes it back. */
  hasNews = false;
  readonly #pages: (Uint32Array | undefined)[];

  constructor(granuleCount: number) {
    this.granuleCount = granuleCount;
    this.#pages = new Array<Uint32Array | undefined>(Math.ceil(granuleCount / SUMS_PAGE_GRANULES)).fill(undefined);
  }

  get pageCount(): number {
    return this.#pages.length;
  }

  isKnown(granule: number): boolean {
    return this.#get(granule) !== UNKNOWN;
  }

  set(granule: number, sum: number): void {
    this.hasNews = true;
    this.#ownPage(granule >>> 12)[granule & 0xfff] = sum;
  }

  /** Whether the granule may have these bytes; true when nothing is known of it. */
  fits(granule: number, bytes: Uint8Array): boolean {
    const known = this.#get(granule);
    return known === UNKNOWN || known === granuleSumOf(bytes);
  }

  /** From `start` up to `end`. */
  forget(start: number, end: number): void {
    for (let granule = start; granule < end;) {
      const pageIndex = granule >>> 12;
      const from = granule & 0xfff;
      const to = Math.min(SUMS_PAGE_GRANULES, from + end - granule);
      if (this.#pages[pageIndex] !== undefined) {
        if (from === 0 && to === SUMS_PAGE_GRANULES) this.#pages[pageIndex] = undefined;
        else if (to - from === 1) this.#ownPage(pageIndex)[from] = UNKNOWN;
        else this.#ownPage(pageIndex).fill(UNKNOWN, from, to);
      }
      granule += to - from;
    }
  }

  /** The whole granules from `start` up to `end` are zeroes. */
  setZero(start: number, end: number): void {
    this.hasNews = true;
    for (let granule = start; granule < end;) {
      const pageIndex = granule >>> 12;
      const from = granule & 0xfff;
      const to = Math.min(SUMS_PAGE_GRANULES, from + end - granule);
      if (from === 0 && to === SUMS_PAGE_GRANULES) this.#pages[pageIndex] = ZERO_SUMS_PAGE;
      else this.#ownPage(pageIndex).fill(ZERO_SUM, from, to);
      granule += to - from;
    }
  }

  /** Borrowed; 0 is an unknown sum. Undefined: all are unknown. */
  page(pageIndex: number): Uint32Array | undefined {
    return this.#pages[pageIndex];
  }

  /** Takes over a page. */
  load(pageIndex: number, page: Uint32Array): void {
    this.#pages[pageIndex] = page;
  }

  #get(granule: number): number {
    const page = this.#pages[granule >>> 12];
    return page === undefined ? UNKNOWN : (page[granule & 0xfff] ?? UNKNOWN);
  }

  #ownPage(pageIndex: number): Uint32Array {
    let page = this.#pages[pageIndex];
    if (page === undefined) page = new Uint32Array(SUMS_PAGE_GRANULES);
    else if (page === ZERO_SUMS_PAGE) page = page.slice();
    else return page;
    this.#pages[pageIndex] = page;
    return page;
  }
}
