/**
 * Bytes of a disk by offset over whole blocks, each fetched once and kept. Bounded in what it fetches, so that whatever an image says about itself, reading
 * it ends.
 */
import { CollectiveError } from '@collective/shared';

/** How much of a disk is fetched to find its files: all directories and inodes of a desktop system, several times. */
export const FETCHED_BYTES_MAX = 256 * 1024 * 1024;
/** Two for each of the files that are looked at, and as many for what lies between; a structure that leads in circles ends here. */
export const READS_MAX = 2 ** 20;

export class DiskReader {
  readonly diskBytes: number;
  readonly #blockBytes: number;
  readonly #fetch: (blockIndex: number) => Promise<Buffer>;
  readonly #blocks = new Map<number, Buffer>();
  #reads = 0;

  /** `fetch` gives a whole block; behind the end of the disk it is zero. */
  constructor(
    disk: { readonly diskBytes: number; readonly blockBytes: number },
    fetch: (blockIndex: number) => Promise<Buffer>,
  ) {
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
    if (this.#reads > READS_MAX)
      throw new CollectiveError('too-large', `the disk's files were not found in ${READS_MAX} reads`);
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
    if ((this.#blocks.size + 1) * this.#blockBytes > FETCHED_BYTES_MAX)
      throw new CollectiveError('too-large', `the disk's files are spread over more than ${FETCHED_BYTES_MAX} bytes`);
    const block = await this.#fetch(blockIndex);
    this.#blocks.set(blockIndex, block);
    return block;
  }
}
