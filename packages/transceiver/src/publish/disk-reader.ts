/**
 * Bytes of a disk by offset over whole blocks, each fetched once and kept. Bounded in what it fetches, so that whatever an image says about itself, reading
 * it ends.
 */
import { CollectiveError } from '@collective/shared';

export const DISK_READER_LIMITS = {
  /** How much of a disk is fetched to find its files: all directories and inodes of a desktop system, several times. */
  fetchedBytesMax: 256 * 1024 * 1024,
  /** Two for each of the files that are looked at, and as many for what lies between; a structure that leads in circles ends here. */
  readsMax: 2 ** 20,
};

export class DiskReader {
  readonly diskBytes: number;
  readonly #blockBytes: number;
  readonly #fetch: (blockIndex: number) => Promise<Buffer>;
  readonly #limits: typeof DISK_READER_LIMITS;
  readonly #blocks = new Map<number, Buffer>();
  #reads = 0;

  /** `fetch` gives a whole block; behind the end of the disk it is zero. */
  constructor(
    disk: { readonly diskBytes: number; readonly blockBytes: number },
    fetch: (blockIndex: number) => Promise<Buffer>,
    limits = DISK_READER_LIMITS,
  ) {
    this.#limits = limits;
    this.diskBytes = disk.diskBytes;
    this.#blockBytes = disk.blockBytes;
    this.#fetch = fetch;
  }

  /** Errors: `malformed` for bytes that the disk does not have, `too-large` when more was asked for than a file system needs, those of `fetch`. */
  async read(byteOffset: number, byteLength: number): Promise<Buffer> {
    const byteEnd = byteOffset + byteLength;
    if (!Number.isSafeInteger(byteOffset) || byteOffset < 0 || byteLength <= 0 || byteEnd > this.diskBytes)
      throw new CollectiveError('malformed', `there are no ${byteLength} bytes at ${byteOffset} of the disk`);
    this.#reads += 1;
    if (this.#reads > this.#limits.readsMax)
      throw new CollectiveError('too-large', `the disk's files were not found in ${this.#limits.readsMax} reads`);
    const parts: Buffer[] = [];
    for (let at = byteOffset; at < byteEnd;) {
      const blockIndex = Math.floor(at / this.#blockBytes);
      const begin = blockIndex * this.#blockBytes;
      const end = Math.min(byteEnd, begin + this.#blockBytes);
      parts.push((await this.#block(blockIndex)).subarray(at - begin, end - begin));
      at = end;
    }
    const [only] = parts;
    return parts.length === 1 && only !== undefined ? only : Buffer.concat(parts);
  }

  async #block(blockIndex: number): Promise<Buffer> {
    const known = this.#blocks.get(blockIndex);
    if (known !== undefined) return known;
    if ((this.#blocks.size + 1) * this.#blockBytes > this.#limits.fetchedBytesMax)
      throw new CollectiveError(
        'too-large',
        `the disk's files are spread over more than ${this.#limits.fetchedBytesMax} bytes`,
      );
    const block = await this.#fetch(blockIndex);
    this.#blocks.set(blockIndex, block);
    return block;
  }
}
