/**
 * The reading half of a slot file, in the serving thread. What is in memory and verified is read at once; everything else is
 * read whole and checked against the full digest before a byte of it is served (slot-state.ts has the protocol).
 *
 * What is served is checked each time: when a slot passes its digest, the crc32 of each of its 4 KiB is kept in memory, and a read is compared
 * with it. That a page was found in the page cache proves nothing: preadv2(RWF_NOWAIT) begins to read what is not there, and serves it
 * when that is through at once (a hole in the file, a medium as fast as memory, a thread that was preempted in between).
 * So the mark and RWF_NOWAIT decide what need not wait, and the sums what is true.
 *
 * One thread may read through one SlotReader.
 */
import { crc32 } from 'node:zlib';
import type { Digest } from '@collective/shared';
import { decryptSectors, EncryptedFile } from '../../storage/encrypted-file.js';
import type { RandomFile } from '../../storage/file-system.js';
import type { SectorCipher } from '../../storage/sector-cipher.js';
import { ERRNO, syscalls } from '../syscalls.js';
import { publicNaming, type BlockNaming } from './block-naming.js';
import { slotArrays, type SlotArrays, type SlotMemory } from './slot-arrays.js';
import { SlotIndex } from './slot-index.js';
import { holdSlot, invalidate, isSameContent, isVerified, markVerified, releaseSlot } from './slot-state.js';
import { countTouch, epochOf } from './touches.js';

/** `gone`: the slot holds something else by now. `damaged`: it does not hold what its record says, or cannot be read. */
export type WholeRead = { readonly block: Buffer } | 'gone' | 'damaged';

/**
 * `unreadable`: of the damaged ones, those that could not be read at all. `refused`: reads of marked slots that would have had to wait.
 * `mismatched`: reads of marked slots that gave other bytes than the last check.
 */
export type SlotReaderCounters = {
  verified: number;
  damaged: number;
  unreadable: number;
  refused: number;
  mismatched: number;
};

export type SlotReaderOptions = {
  readonly nowMs?: () => number;
  /** `false` reads as where the call is missing. */
  readonly useNowait?: boolean;
  /** The call itself, for a file without a descriptor (a double). */
  readonly readNowait?: ReadNowait;
  /** Of an encrypted slot file. */
  readonly cipher?: SectorCipher;
  /** What blocks are called; default: as public ones. */
  readonly naming?: BlockNaming;
};

/** preadv2(RWF_NOWAIT): fills `target` from the page cache; how many bytes, or the negative errno. */
export type ReadNowait = (target: Uint8Array, byteOffset: number) => number;

const PAGE_BYTES = 4096;

export class SlotReader {
  readonly blockBytes: number;
  readonly counters: SlotReaderCounters = { verified: 0, damaged: 0, unreadable: 0, refused: 0, mismatched: 0 };
  readonly #arrays: SlotArrays;
  readonly #index: SlotIndex;
  readonly #file: RandomFile;
  readonly #nowMs: () => number;
  /** Undefined where the measured latency of reads decides what need not wait. */
  readonly #readNowait: ReadNowait | undefined;
  readonly #sums: PageSums;
  readonly #naming: BlockNaming;
  #epoch: number;

  /** Takes over the file. */
  constructor(memory: SlotMemory, file: RandomFile, options: SlotReaderOptions = {}) {
    this.blockBytes = memory.blockBytes;
    this.#arrays = slotArrays(memory);
    this.#index = new SlotIndex(this.#arrays);
    const { cipher } = options;
    this.#file = cipher === undefined ? file : new EncryptedFile(file, cipher);
    this.#naming = options.naming ?? publicNaming;
    this.#nowMs = options.nowMs ?? Date.now;
    this.#epoch = epochOf(this.#nowMs());
    const readNowait = options.useNowait === false ? undefined : (options.readNowait ?? nowaitOf(file));
    this.#readNowait = cipher === undefined ? readNowait : decrypting(readNowait, cipher);
    this.#sums = new PageSums(this.blockBytes, this.#arrays.capacity);
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
    const sums = this.#sums;
    if (!sums.isFor(slot, word)) return false;
    const pages = sums.pagesFor(target, within);
    const byteOffset = slot * this.blockBytes + within - (within % PAGE_BYTES);
    if (this.#readNowait === undefined) {
      if (!this.#file.tryRead(pages, byteOffset)) return false;
    } else if (this.#readNowait(pages, byteOffset) !== pages.length) {
      invalidate(states, slot);
      this.counters.refused += 1;
      return false;
    }
    if (!sums.isRight(slot, within, pages)) {
      invalidate(states, slot);
      this.counters.mismatched += 1;
      return false;
    }
    if (pages !== target) target.set(pages.subarray(within % PAGE_BYTES, (within % PAGE_BYTES) + target.length));
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
        const result = this.#damaged(slot, word);
        if (result === 'damaged') this.counters.unreadable += 1;
        return result;
      }
      if (!this.#naming.isNamed(block, digest)) return this.#damaged(slot, word);
      this.counters.verified += 1;
      // Refused when a NOWAIT read of the slot was refused meanwhile: what that one brought in has not been checked.
      if (markVerified(states, slot, word)) this.#sums.record(slot, word, block);
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
}

/** What comes past the EncryptedFile; whole pages are whole sectors. */
const decrypting = (read: ReadNowait | undefined, cipher: SectorCipher): ReadNowait | undefined =>
  read &&
  ((target, byteOffset) => {
    const count = read(target, byteOffset);
    if (count === target.length) decryptSectors(cipher, target, byteOffset);
    return count;
  });

/** Undefined where the call or the file system cannot tell what is in memory. */
const nowaitOf = (file: RandomFile): ReadNowait | undefined => {
  const fd = file.descriptor;
  const calls = syscalls;
  if (fd === undefined || calls === undefined) return undefined;
  calls.advise(fd, 0, 0, 'random');
  const probe = calls.readNowait(fd, Buffer.alloc(1), 0);
  if (probe === -ERRNO.EOPNOTSUPP || probe === -ERRNO.EINVAL) return undefined;
  return (target, byteOffset) => calls.readNowait(fd, target, byteOffset);
};

/**
 * The crc32 of each 4 KiB of each slot as it was when the whole slot was last checked: 68 bytes for a slot of 64 KiB that was checked
 * since the start; pages of these arrays that were never touched cost nothing.
 */
class PageSums {
  readonly #pagesPerSlot: number;
  readonly #sums: Uint32Array;
  /** The state word for which a slot's sums are right; 0 is never one, because it carries the mark. */
  readonly #words: Int32Array;
  readonly #scratch: Buffer;

  constructor(blockBytes: number, capacity: number) {
    this.#pagesPerSlot = blockBytes / PAGE_BYTES;
    this.#sums = new Uint32Array(capacity * this.#pagesPerSlot);
    this.#words = new Int32Array(capacity);
    this.#scratch = Buffer.allocUnsafeSlow(blockBytes);
  }

  /** `block` was checked while the slot's state word was `word`. */
  record(slot: number, word: number, block: Buffer): void {
    const first = slot * this.#pagesPerSlot;
    for (let page = 0; page < this.#pagesPerSlot; page += 1)
      this.#sums[first + page] = crc32(block.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES));
    this.#words[slot] = word | 1;
  }

  /** Whether the sums of the slot are those of its content while its state word is `word`. */
  isFor(slot: number, word: number): boolean {
    return this.#words[slot] === word;
  }

  /** Where to read the whole pages of which `target` wants a part: into itself when it wants whole ones. Good until the next call. */
  pagesFor(target: Uint8Array, within: number): Uint8Array {
    if (within % PAGE_BYTES === 0 && target.length % PAGE_BYTES === 0) return target;
    const first = within - (within % PAGE_BYTES);
    const end = Math.ceil((within + target.length) / PAGE_BYTES) * PAGE_BYTES;
    return this.#scratch.subarray(0, end - first);
  }

  isRight(slot: number, within: number, pages: Uint8Array): boolean {
    const first = slot * this.#pagesPerSlot + Math.floor(within / PAGE_BYTES);
    if (pages.length === PAGE_BYTES) return crc32(pages) === this.#sums[first];
    for (let at = 0, page = first; at < pages.length; at += PAGE_BYTES, page += 1) {
      if (crc32(pages.subarray(at, at + PAGE_BYTES)) !== this.#sums[page]) return false;
    }
    return true;
  }
}
