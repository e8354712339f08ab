/**
 * A file of the simulated disk: what is in the page cache and what is on the medium, page by page.
 *
 * A page that was written since the last sync remembers every content it had since then: after a power cut the medium may
 * hold any of them, or a mixture sector by sector. A failed sync marks pages clean whether or not they reached the medium,
 * as Linux does. A clean page whose cache and medium differ is one that a failed sync lost or that rotted at rest: it
 * is read from the cache as long as it stays there, and from the medium once it was dropped.
 */
import type { Random } from './random.js';

export const PAGE_BYTES = 4096;
export const SECTOR_BYTES = 512;
/** Contents of one page that are remembered between the medium's and the cache's; above it one of them is forgotten. */
const PENDING_MAX = 8;

/** The content of one page; never changed once made. Undefined: a hole. */
type PageBytes = Buffer | undefined;

type Page = {
  cached: PageBytes;
  medium: PageBytes;
  /** Contents between the two, oldest first. */
  readonly pending: PageBytes[];
  isDirty: boolean;
  isResident: boolean;
};

export type FileExtent = { readonly kind: 'data' | 'hole'; readonly byteLength: number };

const ZERO_PAGE = Buffer.alloc(PAGE_BYTES);

const samePage = (a: PageBytes, b: PageBytes): boolean => a === b || (a ?? ZERO_PAGE).equals(b ?? ZERO_PAGE);

export class SimulatedFile {
  readonly kind = 'file';
  readonly inode: number;
  links = 0;
  opens = 0;
  modifiedAtMs: number;
  /** Who holds the file's lock. */
  lockedBy: object | undefined;
  readonly #pages = new Map<number, Page>();
  readonly #dirty = new Set<number>();
  /** Takes the space of one page, or throws. */
  readonly #takePage: () => void;
  readonly #freePages: (count: number) => void;
  #byteLength = 0;
  #mediumByteLength = 0;
  #pendingByteLengths: number[] = [];
  #isLengthDirty = false;
  #allocatedPages = 0;
  #forgotten = 0;

  constructor(
    inode: number,
    modifiedAtMs: number,
    space: { readonly takePage: () => void; readonly freePages: (count: number) => void },
  ) {
    this.inode = inode;
    this.modifiedAtMs = modifiedAtMs;
    this.#takePage = space.takePage;
    this.#freePages = space.freePages;
  }

  get byteLength(): number {
    return this.#byteLength;
  }

  get allocatedPages(): number {
    return this.#allocatedPages;
  }

  get isDirty(): boolean {
    return this.#isLengthDirty || this.#dirty.size > 0;
  }

  /** Fills `target` as far as the file goes and returns how far. */
  read(target: Uint8Array, byteOffset: number): number {
    const end = Math.min(byteOffset + target.length, this.#byteLength);
    for (let position = byteOffset; position < end;) {
      const index = Math.floor(position / PAGE_BYTES);
      const from = position - index * PAGE_BYTES;
      const to = Math.min(PAGE_BYTES, from + end - position);
      const page = this.#pages.get(index);
      if (page !== undefined) page.isResident = true;
      const bytes = page?.cached;
      const part = target.subarray(position - byteOffset, position - byteOffset + to - from);
      if (bytes === undefined) part.fill(0);
      else part.set(bytes.subarray(from, to));
      position += to - from;
    }
    return Math.max(0, end - byteOffset);
  }

  /** Whether a read of the range would be answered from memory. */
  isResident(byteOffset: number, byteLength: number): boolean {
    const endPage = Math.ceil((byteOffset + byteLength) / PAGE_BYTES);
    for (let index = Math.floor(byteOffset / PAGE_BYTES); index < endPage; index += 1)
      if (this.#pages.get(index)?.isResident !== true) return false; // a hole is in memory only once it was read
    return true;
  }

  /** Brings a range into memory. */
  makeResident(byteOffset: number, byteLength: number): void {
    const endPage = Math.ceil((byteOffset + byteLength) / PAGE_BYTES);
    for (let index = Math.floor(byteOffset / PAGE_BYTES); index < endPage; index += 1) {
      const page = this.#pages.get(index);
      if (page !== undefined) page.isResident = true;
    }
  }

  /** Writes page by page; where the disk is full it throws, and what was written before stays. */
  write(source: Uint8Array, byteOffset: number): void {
    const end = byteOffset + source.length;
    for (let position = byteOffset; position < end;) {
      const index = Math.floor(position / PAGE_BYTES);
      const from = position - index * PAGE_BYTES;
      const to = Math.min(PAGE_BYTES, from + end - position);
      const before = this.#pages.get(index)?.cached;
      if (before === undefined) this.#takePage();
      const bytes = Buffer.allocUnsafe(PAGE_BYTES);
      if (from > 0 || to < PAGE_BYTES) {
        if (before === undefined) bytes.fill(0);
        else before.copy(bytes);
      }
      bytes.set(source.subarray(position - byteOffset, position - byteOffset + to - from), from);
      this.#change(index, bytes);
      position += to - from;
      if (position > this.#byteLength) this.#setLength(position);
    }
  }

  setByteLength(byteLength: number): void {
    if (byteLength < this.#byteLength) {
      this.#clearTail(byteLength);
      const firstGone = Math.ceil(byteLength / PAGE_BYTES);
      for (const [index, page] of this.#pages)
        if (index >= firstGone && page.cached !== undefined) this.#change(index, undefined);
    }
    if (byteLength !== this.#byteLength) this.#setLength(byteLength);
  }

  /** The range reads as zeroes; the length stays. `keepAllocated` reserves its space instead of giving it back. */
  punch(byteOffset: number, byteLength: number, keepAllocated: boolean): void {
    const end = byteOffset + byteLength;
    for (let position = byteOffset; position < end;) {
      const index = Math.floor(position / PAGE_BYTES);
      const from = position - index * PAGE_BYTES;
      const to = Math.min(PAGE_BYTES, from + end - position);
      const before = this.#pages.get(index)?.cached;
      if (keepAllocated || (before !== undefined && to - from < PAGE_BYTES)) {
        if (before === undefined) this.#takePage();
        const bytes = Buffer.from(before ?? ZERO_PAGE);
        bytes.fill(0, from, to);
        this.#change(index, bytes);
      } else if (before !== undefined) this.#change(index, undefined);
      position += to - from;
    }
  }

  extents(byteOffset: number, byteLength: number): FileExtent[] {
    const extents: { kind: 'data' | 'hole'; byteLength: number }[] = [];
    const end = byteOffset + byteLength;
    for (let position = byteOffset; position < end;) {
      const index = Math.floor(position / PAGE_BYTES);
      const to = Math.min((index + 1) * PAGE_BYTES, end);
      const isData = position < this.#byteLength && this.#pages.get(index)?.cached !== undefined;
      const kind = isData ? 'data' : 'hole';
      const last = extents.at(-1);
      if (last?.kind === kind) last.byteLength += to - position;
      else extents.push({ kind, byteLength: to - position });
      position = to;
    }
    return extents;
  }

  /** All that was written is on the medium. */
  sync(): void {
    for (const index of this.#dirty) {
      const page = this.#pages.get(index);
      if (page === undefined) continue;
      page.medium = page.cached;
      page.pending.length = 0;
      page.isDirty = false;
    }
    this.#dirty.clear();
    this.#settleLength(this.#byteLength);
  }

  /** What Linux does when the medium fails: each page got there, or is lost but still cached, or is lost and dropped. */
  failSync(random: Random): void {
    for (const index of this.#dirty) {
      const page = this.#pages.get(index);
      if (page === undefined) continue;
      const fate = random.int(3);
      if (fate === 0) page.medium = page.cached;
      page.pending.length = 0;
      page.isDirty = false;
      if (fate === 2) this.#drop(page);
    }
    this.#dirty.clear();
    this.#settleLength(this.#byteLength);
  }

  /** The power is cut: every page and the length become any of what they were since the last sync. */
  cut(random: Random, tornPageProbability: number): void {
    for (const index of [...this.#dirty].sort((a, b) => a - b)) {
      const page = this.#pages.get(index);
      if (page === undefined) continue;
      const choices = [page.medium, ...page.pending, page.cached];
      page.medium = random.chance(tornPageProbability) ? torn(choices, random) : choices[random.int(choices.length)];
      page.pending.length = 0;
      page.isDirty = false;
    }
    this.#dirty.clear();
    if (this.#isLengthDirty) {
      const choices = [this.#mediumByteLength, ...this.#pendingByteLengths, this.#byteLength];
      this.#byteLength = random.pick(choices);
      this.#settleLength(this.#byteLength);
    }
    for (const page of this.#pages.values()) {
      page.cached = page.medium;
      page.isResident = false;
    }
    // What lies behind the end is not there.
    const tail = this.#byteLength % PAGE_BYTES;
    const lastPage = Math.floor(this.#byteLength / PAGE_BYTES);
    for (const [index, page] of this.#pages) {
      if (index > lastPage || (index === lastPage && tail === 0)) page.cached = page.medium = undefined;
      else if (index === lastPage && page.cached !== undefined) {
        page.cached = page.medium = Buffer.from(page.cached).fill(0, tail);
      }
      if (page.cached === undefined) this.#pages.delete(index);
    }
    this.#allocatedPages = this.#pages.size;
  }

  /** Clean pages, of all or of a range, leave the memory; what is read next comes from the medium. */
  dropPages(byteOffset = 0, byteLength = Infinity): void {
    const firstPage = Math.floor(byteOffset / PAGE_BYTES);
    const endPage = Math.ceil((byteOffset + byteLength) / PAGE_BYTES);
    for (const [index, page] of this.#pages)
      if (!page.isDirty && index >= firstPage && index < endPage) this.#drop(page);
  }

  /** Changes what the medium holds, under everybody's feet: a page in memory does not show it before it was dropped. */
  corrupt(byteOffset: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length;) {
      const index = Math.floor((byteOffset + done) / PAGE_BYTES);
      const from = byteOffset + done - index * PAGE_BYTES;
      const part = bytes.subarray(done, done + PAGE_BYTES - from);
      const page = this.#page(index);
      const wasHole = page.cached === undefined;
      const medium = Buffer.from(page.medium ?? ZERO_PAGE);
      medium.set(part, from);
      page.medium = medium;
      // What was changed, or given back, since the last sync hides the medium.
      const isSeen = !page.isDirty && (!page.isResident || wasHole);
      if (isSeen) page.cached = medium;
      if (isSeen && wasHole) this.#gainPage();
      done += part.length;
    }
  }

  /** Undoes what `corrupt` did, wherever it has got to meanwhile: `fix` gets every content of every page, to be changed in place, and where the page begins. */
  repair(fix: (bytes: Buffer, byteOffset: number) => void): void {
    for (const [index, { cached, medium, pending }] of this.#pages)
      for (const bytes of [cached, medium, ...pending]) if (bytes !== undefined) fix(bytes, index * PAGE_BYTES);
  }

  /** What the medium holds of a range, or of the file as long as the medium says it is; zeroes behind that. */
  mediumBytes(byteOffset = 0, byteLength = this.#mediumByteLength - byteOffset): Buffer {
    const bytes = Buffer.alloc(byteLength);
    const end = byteOffset + byteLength;
    for (let position = byteOffset; position < end;) {
      const index = Math.floor(position / PAGE_BYTES);
      const pageEnd = Math.min((index + 1) * PAGE_BYTES, end);
      this.#pages
        .get(index)
        ?.medium?.copy(bytes, position - byteOffset, position - index * PAGE_BYTES, pageEnd - index * PAGE_BYTES);
      position = pageEnd;
    }
    return bytes;
  }

  /** The pages that the medium holds, in order; zeroes are a hole. */
  mediumPages(): { readonly index: number; readonly bytes: Buffer }[] {
    const pages: { readonly index: number; readonly bytes: Buffer }[] = [];
    for (const [index, { medium }] of this.#pages)
      if (medium !== undefined && !medium.equals(ZERO_PAGE)) pages.push({ index, bytes: medium });
    return pages.sort((a, b) => a.index - b.index);
  }

  #drop(page: Page): void {
    if ((page.cached === undefined) !== (page.medium === undefined)) {
      if (page.medium === undefined) {
        this.#allocatedPages -= 1;
        this.#freePages(1);
      } else this.#gainPage();
    }
    page.cached = page.medium;
    page.isResident = false;
  }

  /** Space that comes into use although nobody asked. */
  #gainPage(): void {
    this.#allocatedPages += 1;
    this.#freePages(-1);
  }

  #page(index: number): Page {
    const known = this.#pages.get(index);
    if (known !== undefined) return known;
    const page: Page = { cached: undefined, medium: undefined, pending: [], isDirty: false, isResident: true };
    this.#pages.set(index, page);
    return page;
  }

  /** The space of a page that becomes data has been taken already. */
  #change(index: number, bytes: PageBytes): void {
    const page = this.#page(index);
    if (page.cached === undefined && bytes !== undefined) this.#allocatedPages += 1;
    if (page.cached !== undefined && bytes === undefined) {
      this.#allocatedPages -= 1;
      this.#freePages(1);
    }
    if (!page.isDirty) {
      // After a failed sync the cache may differ from the medium without being dirty; that content is lost by now.
      page.isDirty = true;
      this.#dirty.add(index);
    } else if (!samePage(page.cached, page.pending.at(-1) ?? page.medium)) {
      if (page.pending.length >= PENDING_MAX) page.pending.splice((this.#forgotten += 1) % PENDING_MAX, 1);
      page.pending.push(page.cached);
    }
    page.cached = bytes;
    page.isResident = bytes !== undefined; // a page that is given back leaves the memory, too
  }

  #clearTail(byteLength: number): void {
    const index = Math.floor(byteLength / PAGE_BYTES);
    const bytes = this.#pages.get(index)?.cached;
    if (bytes !== undefined && byteLength % PAGE_BYTES !== 0)
      this.#change(index, Buffer.from(bytes).fill(0, byteLength % PAGE_BYTES));
  }

  #setLength(byteLength: number): void {
    if (this.#isLengthDirty) {
      if (this.#pendingByteLengths.length >= PENDING_MAX)
        this.#pendingByteLengths.splice((this.#forgotten += 1) % PENDING_MAX, 1);
      this.#pendingByteLengths.push(this.#byteLength);
    }
    this.#isLengthDirty = true;
    this.#byteLength = byteLength;
  }

  #settleLength(byteLength: number): void {
    this.#mediumByteLength = byteLength;
    this.#pendingByteLengths = [];
    this.#isLengthDirty = false;
  }
}

const torn = (choices: readonly PageBytes[], random: Random): Buffer => {
  const bytes = Buffer.alloc(PAGE_BYTES);
  for (let at = 0; at < PAGE_BYTES; at += SECTOR_BYTES)
    choices[random.int(choices.length)]?.copy(bytes, at, at, at + SECTOR_BYTES);
  return bytes;
};
