/**
 * The reading half of a slot file, in the serving thread. What is in memory and verified is read at once; everything else is
 * read whole and checked against the full digest before a byte of it is served (slot-state.ts has the protocol).
 *
 * How "in memory and verified" is known:
 *   with preadv2(RWF_NOWAIT)   a read is answered from the page cache or refused; what is refused loses its mark
 *   without                    a crc32 of each 4 KiB, kept from the last check of the whole slot, is compared on each read
 *
 * One thread may read through one SlotReader and no other reader of the same file may run beside it: a second one
 * could read the page that a refused read of the first has just brought in, before the first takes the mark away.
 */
import { crc32 } from 'node:zlib';
import { sha256, type Digest } from '@collective/shared';
import type { RandomFile } from '../../storage/file-system.js';
import { ERRNO, syscalls } from '../syscalls.js';
import { slotArrays, type SlotArrays, type SlotMemory } from './slot-arrays.js';
import { SlotIndex } from './slot-index.js';
import { holdSlot, invalidate, isSameContent, isVerified, markVerified, releaseSlot } from './slot-state.js';
import { countTouch, epochOf } from './touches.js';

/** `gone`: the slot holds something else by now. `damaged`: it does not hold what its record says, or cannot be read. */
export type WholeRead = { readonly block: Buffer } | 'gone' | 'damaged';

export type SlotReaderCounters = { verified: number; damaged: number; refused: number };

const PAGE_BYTES = 4096;

export class SlotReader {
  readonly blockBytes: number;
  readonly counters: SlotReaderCounters = { verified: 0, damaged: 0, refused: 0 };
  readonly #arrays: SlotArrays;
  readonly #index: SlotIndex;
  readonly #file: RandomFile;
  readonly #nowMs: () => number;
  /** The file's descriptor while NOWAIT reads are used. */
  #fd: number | undefined;
  #sums: PageSums | undefined;
  #epoch: number;

  /** Takes over the file. `useNowait: false` reads as where the call is missing. */
  constructor(
    memory: SlotMemory,
    file: RandomFile,
    options: { readonly nowMs?: () => number; readonly useNowait?: boolean } = {},
  ) {
    this.blockBytes = memory.blockBytes;
    this.#arrays = slotArrays(memory);
    this.#index = new SlotIndex(this.#arrays);
    this.#file = file;
    this.#nowMs = options.nowMs ?? Date.now;
    this.#epoch = epochOf(this.#nowMs());
    const fd = file.descriptor;
    if (fd === undefined || syscalls === undefined || options.useNowait === false) this.#useSums();
    else {
      syscalls.advise(fd, 0, 0, 'random');
      const probe = syscalls.readNowait(fd, Buffer.alloc(1), 0);
      if (probe === -ERRNO.EOPNOTSUPP || probe === -ERRNO.EINVAL) this.#useSums();
      else this.#fd = fd;
    }
  }

  /** The slot of a digest (its first 16 bytes as words), or -1. */
  find(words: Uint32Array, at: number): number {
    return this.#index.find(words, at);
  }

  /**
   * Fills `target` with the bytes at `within` of the block when `slot` holds the digest, verified and in memory. The hot
   * path: no allocation, one system call.
   */
  tryRead(slot: number, words: Uint32Array, at: number, target: Uint8Array, within: number): boolean {
    const states = this.#arrays.states;
    const word = Atomics.load(states, slot);
    if (!isVerified(word) || !this.#index.hasDigest(slot, words, at)) return false;
    if (this.#fd === undefined) {
      if (this.#sums?.tryRead(this.#file, slot, word, target, within) !== true) return false;
    } else {
      const count = syscalls?.readNowait(this.#fd, target, slot * this.blockBytes + within) ?? 0;
      if (count !== target.length) {
        invalidate(states, slot);
        this.counters.refused += 1;
        return false;
      }
    }
    if (Atomics.load(states, slot) !== word) return false;
    countTouch(this.#arrays.touches, slot, this.#epoch);
    return true;
  }

  /** The whole block of the slot, checked against the full digest unless the slot is marked and in memory. */
  async readWhole(slot: number, digest: Digest, words: Uint32Array, at: number): Promise<WholeRead> {
    const block = Buffer.allocUnsafeSlow(this.blockBytes);
    if (this.tryRead(slot, words, at, block, 0)) return { block };
    const { readers, states, touches } = this.#arrays;
    if (!holdSlot(readers, slot)) return 'gone';
    try {
      const word = Atomics.load(states, slot);
      if (!this.#index.hasDigest(slot, words, at)) return 'gone';
      const byteOffset = slot * this.blockBytes;
      try {
        if (!this.#file.tryRead(block, byteOffset)) await this.#file.read(block, byteOffset);
      } catch {
        return this.#damaged(slot, word);
      }
      if (sha256(block) !== digest) return this.#damaged(slot, word);
      this.counters.verified += 1;
      // Refused when a NOWAIT read of the slot was refused meanwhile: what that one brought in has not been checked.
      if (markVerified(states, slot, word)) this.#sums?.record(slot, word, block);
      countTouch(touches, slot, this.#epoch);
      return { block };
    } finally {
      releaseSlot(readers, slot);
    }
  }

  /** To be called now and then: touches are counted once an epoch. */
  refreshEpoch(): void {
    this.#epoch = epochOf(this.#nowMs());
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  #damaged(slot: number, word: number): 'gone' | 'damaged' {
    if (!isSameContent(this.#arrays.states, slot, word)) return 'gone';
    this.counters.damaged += 1;
    return 'damaged';
  }

  #useSums(): void {
    this.#fd = undefined;
    this.#sums = new PageSums(this.blockBytes, this.#arrays.capacity);
  }
}

/** The crc32 of each 4 KiB of each slot as it was when the whole slot was last checked. */
class PageSums {
  readonly #blockBytes: number;
  readonly #pagesPerSlot: number;
  readonly #sums: Uint32Array;
  /** The state word for which a slot's sums are right; 0 is never one, because it carries the mark. */
  readonly #words: Int32Array;
  readonly #scratch: Buffer;

  constructor(blockBytes: number, capacity: number) {
    this.#blockBytes = blockBytes;
    this.#pagesPerSlot = blockBytes / PAGE_BYTES;
    this.#sums = new Uint32Array(capacity * this.#pagesPerSlot);
    this.#words = new Int32Array(capacity);
    this.#scratch = Buffer.allocUnsafeSlow(blockBytes);
  }

  /** `block` was checked while the slot's state word was `word`. */
  record(slot: number, word: number, block: Buffer): void {
    for (let page = 0; page < this.#pagesPerSlot; page += 1) {
      this.#sums[slot * this.#pagesPerSlot + page] = crc32(block.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES));
    }
    this.#words[slot] = word | 1;
  }

  tryRead(file: RandomFile, slot: number, word: number, target: Uint8Array, within: number): boolean {
    if (this.#words[slot] !== word) return false;
    const firstPage = Math.floor(within / PAGE_BYTES);
    const endPage = Math.ceil((within + target.length) / PAGE_BYTES);
    const isWholePages = within % PAGE_BYTES === 0 && target.length % PAGE_BYTES === 0;
    const pages = isWholePages ? target : this.#scratch.subarray(0, (endPage - firstPage) * PAGE_BYTES);
    if (!file.tryRead(pages, slot * this.#blockBytes + firstPage * PAGE_BYTES)) return false;
    for (let page = firstPage; page < endPage; page += 1) {
      const from = (page - firstPage) * PAGE_BYTES;
      if (crc32(pages.subarray(from, from + PAGE_BYTES)) !== this.#sums[slot * this.#pagesPerSlot + page]) return false;
    }
    if (!isWholePages)
      target.set(
        this.#scratch.subarray(within - firstPage * PAGE_BYTES, within - firstPage * PAGE_BYTES + target.length),
      );
    return true;
  }
}
