/**
 * Digest → slot, over the shared arrays: open addressing with linear probing and backward-shift deletion, so that it
 * never fills with tombstones. One writer; readers may look at any time (see slot-arrays.ts for what a race can do:
 * miss an entry, never return a slot whose record does not have the digest that was asked for).
 *
 * Digests are passed as four 32-bit words at a position of a Uint32Array, so that a hot path allocates nothing.
 */
import { DIGEST_WORDS, RECORD_WORDS, type SlotArrays } from './slot-arrays.js';

export const NO_SLOT = -1;

export class SlotIndex {
  readonly #records: Uint32Array;
  readonly #index: Uint32Array;
  readonly #seed: number;

  constructor(arrays: SlotArrays) {
    this.#records = arrays.records;
    this.#index = arrays.index;
    this.#seed = arrays.seed;
  }

  /** The slot whose record has the digest, or NO_SLOT. */
  find(words: Uint32Array, at: number): number {
    const index = this.#index;
    let position = homePosition(words[at] ?? 0, words[at + 1] ?? 0, this.#seed, index.length);
    // The bound matters only to a reader that races with the writer; at load 0.5 a run of this length does not occur.
    for (let probes = 0; probes < index.length; probes += 1) {
      const entry = index[position] ?? 0;
      if (entry === 0) return NO_SLOT;
      if (this.hasDigest(entry - 1, words, at)) return entry - 1;
      position += 1;
      if (position === index.length) position = 0;
    }
    return NO_SLOT;
  }

  hasDigest(slot: number, words: Uint32Array, at: number): boolean {
    const record = slot * RECORD_WORDS;
    const records = this.#records;
    return (
      records[record] === words[at] &&
      records[record + 1] === words[at + 1] &&
      records[record + 2] === words[at + 2] &&
      records[record + 3] === words[at + 3]
    );
  }

  /** Writer only. The slot's record has its digest already. False when the digest is in the index: nothing changed. */
  insert(slot: number): boolean {
    const index = this.#index;
    const record = slot * RECORD_WORDS;
    let position = homePosition(this.#records[record] ?? 0, this.#records[record + 1] ?? 0, this.#seed, index.length);
    for (;;) {
      const entry = index[position] ?? 0;
      if (entry === 0) break;
      if (this.hasDigest(entry - 1, this.#records, record)) return false;
      position += 1;
      if (position === index.length) position = 0;
    }
    index[position] = slot + 1;
    return true;
  }

  /** Writer only. The slot's record must still have its digest. False when the slot is not in the index. */
  remove(slot: number): boolean {
    const index = this.#index;
    let position = this.#homeOf(slot);
    while (index[position] !== slot + 1) {
      if (index[position] === 0) return false;
      position = position + 1 === index.length ? 0 : position + 1;
    }
    // Entries behind the gap move up unless they would land before their home.
    let gap = position;
    for (;;) {
      position = position + 1 === index.length ? 0 : position + 1;
      const entry = index[position] ?? 0;
      if (entry === 0) break;
      const home = this.#homeOf(entry - 1);
      const staysReachable = gap <= position ? home <= gap || home > position : home <= gap && home > position;
      if (!staysReachable) continue;
      index[gap] = entry;
      gap = position;
    }
    index[gap] = 0;
    return true;
  }

  #homeOf(slot: number): number {
    const record = slot * RECORD_WORDS;
    return homePosition(this.#records[record] ?? 0, this.#records[record + 1] ?? 0, this.#seed, this.#index.length);
  }
}

/** Where a digest belongs in an index of `length` entries; `length` need not be a power of two. */
export const homePosition = (word0: number, word1: number, seed: number, length: number): number => {
  let mixed = Math.imul(word0 ^ seed, 0x9e3779b1) ^ Math.imul((word1 + seed) | 0, 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0xc2b2ae35);
  return Math.floor(((mixed ^ (mixed >>> 13)) >>> 0) * (length / 0x1_0000_0000));
};

/** The first 16 bytes of a digest as words, written to `words` at `at`. */
export const putDigestWords = (digest: string, words: Uint32Array, at: number): void => {
  const bytes = Buffer.from(digest.slice(0, DIGEST_WORDS * 8), 'hex');
  for (let word = 0; word < DIGEST_WORDS; word += 1) words[at + word] = bytes.readUInt32LE(word * 4);
};
