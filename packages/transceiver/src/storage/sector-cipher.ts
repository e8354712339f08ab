/**
 * AES-256-XTS over sectors of 512 bytes (IEEE 1619; the sector's number is the tweak), for what belongs to a person and lies on a disk.
 * Any run of sectors is one call, and each sector stands alone, so that one can be written without reading its neighbours.
 *
 * `node:crypto` has the mode, but wants a new cipher for each sector: 8 for 4 KiB. Here the same is made of two long-lived AES-ECB ciphers,
 * one call of each for a whole run; the tests compare it with `node:crypto`'s.
 *
 * It keeps secrets, it does not prove anything: a bit that flips garbles 16 bytes. Digests and sums find that.
 */
import { newBlockCipher, type BlockCipher } from './block-cipher.js';

export const CIPHER_SECTOR_BYTES = 512;
/** Two AES-256 keys: of the data and of the tweaks. */
export const SECTOR_KEY_BYTES = 64;

const BLOCK_BYTES = 16;
const BLOCK_WORDS = 4;
const SECTOR_WORDS = CIPHER_SECTOR_BYTES / 4;
/** A run is worked through in pieces of this size: what is needed on the way stays in the processor's cache. */
const PIECE_BYTES = 16 << 10;
const PIECE_SECTORS = PIECE_BYTES / CIPHER_SECTOR_BYTES;

/** Of one key. One thread at a time; calls are synchronous. */
export class SectorCipher {
  readonly #encrypting: BlockCipher;
  readonly #decrypting: BlockCipher;
  readonly #tweaking: BlockCipher;
  /** The sectors' numbers, and then the same encrypted: the tweaks. */
  readonly #numbers = new Int32Array(PIECE_SECTORS * BLOCK_WORDS);
  readonly #numberBytes = Buffer.from(this.#numbers.buffer);
  readonly #words = new Int32Array(PIECE_BYTES / 4);
  readonly #bytes = Buffer.from(this.#words.buffer);

  /** Keeps no copy of the key; the caller may erase it afterwards. */
  constructor(key: Uint8Array) {
    if (key.length !== SECTOR_KEY_BYTES) throw new RangeError(`a sector key has 64 bytes, not ${key.length}`);
    const data = key.subarray(0, 32);
    const tweak = key.subarray(32);
    // XTS with two equal keys is not safe (FIPS 140, IG A.9).
    if (Buffer.compare(data, tweak) === 0) throw new RangeError('the two halves of a sector key are equal');
    this.#encrypting = newBlockCipher('ecb-encrypt', data);
    this.#decrypting = newBlockCipher('ecb-decrypt', data);
    this.#tweaking = newBlockCipher('ecb-encrypt', tweak);
  }

  /** Whole sectors from `source` into `target` (of the same length, may be the same bytes); `firstSector` is the number of the first. */
  encrypt(source: Uint8Array, target: Uint8Array, firstSector: number): void {
    this.#run(this.#encrypting, source, target, firstSector);
  }

  /** As `encrypt`, the other way. */
  decrypt(source: Uint8Array, target: Uint8Array, firstSector: number): void {
    this.#run(this.#decrypting, source, target, firstSector);
  }

  #run(cipher: BlockCipher, source: Uint8Array, target: Uint8Array, firstSector: number): void {
    if (source.length % CIPHER_SECTOR_BYTES !== 0 || target.length !== source.length)
      throw new RangeError(`${source.length} bytes into ${target.length}: only whole sectors can be encrypted`);
    for (let at = 0; at < source.length; at += PIECE_BYTES) {
      const byteLength = Math.min(PIECE_BYTES, source.length - at);
      const sectorCount = byteLength / CIPHER_SECTOR_BYTES;
      const tweaks = this.#tweaksOf(firstSector + at / CIPHER_SECTOR_BYTES, sectorCount);
      // What lies at a whole word, which is nearly everything, is neither copied in nor out.
      let words = wordsAt(source, at, byteLength);
      if (words === undefined) {
        this.#bytes.set(source.subarray(at, at + byteLength));
        words = this.#words;
      }
      mixTweaks(words, this.#words, tweaks, sectorCount);
      const bytes = byteLength === PIECE_BYTES ? this.#bytes : this.#bytes.subarray(0, byteLength);
      cipher.update(bytes, bytes);
      const out = wordsAt(target, at, byteLength);
      mixTweaks(this.#words, out ?? this.#words, tweaks, sectorCount);
      if (out === undefined) target.set(bytes, at);
    }
  }

  /** The encrypted number of each sector, a block each. */
  #tweaksOf(firstSector: number, sectorCount: number): Int32Array {
    const numbers = this.#numbers;
    for (let sector = 0; sector < sectorCount; sector += 1) {
      const number = firstSector + sector;
      numbers[sector * BLOCK_WORDS] = (number % 2 ** 32) | 0;
      numbers[sector * BLOCK_WORDS + 1] = Math.floor(number / 2 ** 32);
      numbers[sector * BLOCK_WORDS + 2] = 0;
      numbers[sector * BLOCK_WORDS + 3] = 0;
    }
    const blocks = this.#numberBytes.subarray(0, sectorCount * BLOCK_BYTES);
    this.#tweaking.update(blocks, blocks);
    return numbers;
  }
}

/** The bytes as words, in place; undefined where they do not begin at one. (Our processors, and XTS, are little-endian.) */
const wordsAt = (bytes: Uint8Array, at: number, byteLength: number): Int32Array | undefined => {
  const byteOffset = bytes.byteOffset + at;
  return byteOffset % 4 === 0 ? new Int32Array(bytes.buffer, byteOffset, byteLength / 4) : undefined;
};

/**
 * Each block with its tweak: of a sector's first block the tweak that is given, then that times 2, 4, … in GF(2^128). It is worked out twice,
 * before and after the cipher, which costs less than storing it.
 */
const mixTweaks = (source: Int32Array, target: Int32Array, tweaks: Int32Array, sectorCount: number): void => {
  for (let sector = 0, word = 0; sector < sectorCount; sector += 1) {
    const first = sector * BLOCK_WORDS;
    let a = tweaks[first] ?? 0;
    let b = tweaks[first + 1] ?? 0;
    let c = tweaks[first + 2] ?? 0;
    let d = tweaks[first + 3] ?? 0;
    for (const end = word + SECTOR_WORDS; word < end; word += BLOCK_WORDS) {
      target[word] = (source[word] ?? 0) ^ a;
      target[word + 1] = (source[word + 1] ?? 0) ^ b;
      target[word + 2] = (source[word + 2] ?? 0) ^ c;
      target[word + 3] = (source[word + 3] ?? 0) ^ d;
      const carry = (d >> 31) & 0x87;
      d = (d << 1) | (c >>> 31);
      c = (c << 1) | (b >>> 31);
      b = (b << 1) | (a >>> 31);
      a = (a << 1) ^ carry;
    }
  }
};
