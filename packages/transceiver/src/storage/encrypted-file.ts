/**
 * A RandomFile whose bytes lie encrypted on the disk, by sector (sector-cipher.ts; a sector's number is its place in the file). Everything
 * is whole sectors: callers that have less hold the rest themselves.
 *
 * A sector that was never written, or was zeroed, is zeroes on the disk and reads as zeroes, so that holes stay holes: which sectors those
 * are is no secret (docs/formats/overlay.md). That a sector's cipher text is all zeroes by chance has the odds 2^-4096.
 */
import type { Extent } from '../blockd/block-device.js';
import type { RandomFile } from './file-system.js';
import { CIPHER_SECTOR_BYTES, type SectorCipher } from './sector-cipher.js';

/** Longer synchronous writes are refused by the file below, too. */
const SCRATCH_BYTES = 128 << 10;

const ZERO_SECTOR = Buffer.alloc(CIPHER_SECTOR_BYTES);

export class EncryptedFile implements RandomFile {
  readonly #next: RandomFile;
  readonly #cipher: SectorCipher;
  readonly #scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES);

  /** Closes `next` with itself. */
  constructor(next: RandomFile, cipher: SectorCipher) {
    this.#next = next;
    this.#cipher = cipher;
  }

  get path(): string {
    return this.#next.path;
  }

  get zeroIsFast(): boolean {
    return this.#next.zeroIsFast;
  }

  get descriptor(): number | undefined {
    return this.#next.descriptor;
  }

  tryRead(target: Uint8Array, byteOffset: number): boolean {
    assertSectors(byteOffset, target.length);
    if (!this.#next.tryRead(target, byteOffset)) return false;
    decryptSectors(this.#cipher, target, byteOffset);
    return true;
  }

  async read(target: Uint8Array, byteOffset: number): Promise<void> {
    assertSectors(byteOffset, target.length);
    await this.#next.read(target, byteOffset);
    decryptSectors(this.#cipher, target, byteOffset);
  }

  mayTryWrite(byteLength: number): boolean {
    return byteLength <= SCRATCH_BYTES && this.#next.mayTryWrite(byteLength);
  }

  tryWrite(source: Uint8Array, byteOffset: number): boolean {
    if (!this.mayTryWrite(source.length)) return false;
    return this.#next.tryWrite(this.#encrypt(source, byteOffset, this.#scratch), byteOffset);
  }

  async write(source: Uint8Array, byteOffset: number): Promise<void> {
    // Encrypted piece by piece: others may use the scratch while one waits, so each piece has bytes of its own.
    for (let at = 0; at < source.length; at += SCRATCH_BYTES) {
      const piece = source.subarray(at, at + SCRATCH_BYTES);
      await this.#next.write(this.#encrypt(piece, byteOffset + at, Buffer.allocUnsafe(piece.length)), byteOffset + at);
    }
  }

  writeNow(source: Uint8Array, byteOffset: number): void {
    this.#next.writeNow(this.#encrypt(source, byteOffset, Buffer.allocUnsafe(source.length)), byteOffset);
  }

  sync(): Promise<void> {
    return this.#next.sync();
  }

  zero(byteOffset: number, byteLength: number, options: { readonly keepAllocated: boolean }): Promise<void> {
    assertSectors(byteOffset, byteLength);
    return this.#next.zero(byteOffset, byteLength, options);
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    return this.#next.extents(byteOffset, byteLength);
  }

  byteLength(): Promise<number> {
    return this.#next.byteLength();
  }

  byteLengthNow(): number {
    return this.#next.byteLengthNow();
  }

  setByteLength(byteLength: number): Promise<void> {
    assertSectors(0, byteLength);
    return this.#next.setByteLength(byteLength);
  }

  willRead(byteOffset: number, byteLength: number): void {
    this.#next.willRead(byteOffset, byteLength);
  }

  dropFromMemory(byteOffset: number, byteLength: number): void {
    this.#next.dropFromMemory(byteOffset, byteLength);
  }

  close(): Promise<void> {
    return this.#next.close();
  }

  #encrypt(source: Uint8Array, byteOffset: number, into: Buffer): Buffer {
    assertSectors(byteOffset, source.length);
    const target = into.subarray(0, source.length);
    this.#cipher.encrypt(source, target, byteOffset / CIPHER_SECTOR_BYTES);
    return target;
  }
}

/** What was read past an EncryptedFile, in place, run by run between the sectors that are zeroes. Whole sectors. */
export const decryptSectors = (cipher: SectorCipher, bytes: Uint8Array, byteOffset: number): void => {
  assertSectors(byteOffset, bytes.length);
  const first = byteOffset / CIPHER_SECTOR_BYTES;
  let runStart = 0;
  for (let at = 0; at <= bytes.length; at += CIPHER_SECTOR_BYTES) {
    if (at < bytes.length && !isZeroSector(bytes, at)) continue;
    const run = bytes.subarray(runStart, at);
    if (run.length > 0) cipher.decrypt(run, run, first + runStart / CIPHER_SECTOR_BYTES);
    runStart = at + CIPHER_SECTOR_BYTES;
  }
};

const isZeroSector = (bytes: Uint8Array, at: number): boolean =>
  bytes[at] === 0 && bytes[at + 1] === 0 && ZERO_SECTOR.compare(bytes, at, at + CIPHER_SECTOR_BYTES) === 0;

const assertSectors = (byteOffset: number, byteLength: number): void => {
  if (byteOffset % CIPHER_SECTOR_BYTES !== 0 || byteLength % CIPHER_SECTOR_BYTES !== 0)
    throw new RangeError(`bytes ${byteOffset} to ${byteOffset + byteLength} are no whole sectors`);
};
