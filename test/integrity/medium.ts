/**
 * Decay of a file on the medium, under a program that uses it: all of it by O_DIRECT, so that what the page cache holds is dropped
 * and not changed. (A bit that is flipped through the page cache is a bit flipped in memory, which is another fault.)
 */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { alignedBuffer, syscalls } from '@collective/transceiver';

const PAGE_BYTES = 4096;

export class Medium {
  readonly path: string;
  readonly #fd: number;
  readonly #page = alignedBuffer(PAGE_BYTES);

  constructor(path: string) {
    this.path = path;
    this.#fd = openSync(path, constants.O_RDWR | constants.O_DIRECT);
  }

  get byteLength(): number {
    return fstatSync(this.#fd).size;
  }

  /** Inverts one bit; false where the file has no whole page there. */
  flip(byteOffset: number, bit = 0): boolean {
    const pageStart = byteOffset - (byteOffset % PAGE_BYTES);
    if (readSync(this.#fd, this.#page, 0, PAGE_BYTES, pageStart) !== PAGE_BYTES) return false;
    const at = byteOffset - pageStart;
    this.#page[at] = (this.#page[at] ?? 0) ^ (1 << bit);
    return writeSync(this.#fd, this.#page, 0, PAGE_BYTES, pageStart) === PAGE_BYTES;
  }

  /** Exchanges two ranges of whole pages: a write that went to the wrong place. */
  swap(first: number, second: number, byteLength: number): void {
    const [a, b] = [alignedBuffer(byteLength), alignedBuffer(byteLength)];
    if (readSync(this.#fd, a, 0, byteLength, first) !== byteLength) return;
    if (readSync(this.#fd, b, 0, byteLength, second) !== byteLength) return;
    writeSync(this.#fd, a, 0, byteLength, second);
    writeSync(this.#fd, b, 0, byteLength, first);
  }

  truncate(byteLength: number): void {
    ftruncateSync(this.#fd, byteLength);
  }

  /** Asks the kernel to forget the file's clean pages. */
  dropPages(): void {
    syscalls?.advise(this.#fd, 0, 0, 'drop');
  }

  close(): void {
    closeSync(this.#fd);
  }
}
