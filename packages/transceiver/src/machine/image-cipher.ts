/**
 * AES-256-CTR for a file that is written once, front to back or by position, under a key that no other file has: the memory and the devices' state
 * of a suspended machine. Nothing is ever written over, so the cipher text of a position never has a second meaning, which is all that this
 * mode asks for; it is as fast as XTS, and takes any length.
 */
import { hkdf32 } from '@collective/shared';
import { newBlockCipher, type BlockCipher } from '../storage/block-cipher.js';

const BLOCK_BYTES = 16;

export class ImageCipher {
  readonly #key: Buffer;

  /** `imageId`: 16 random bytes (hex) of this image; `part`: of which file of it. */
  constructor(diskKey: Uint8Array, options: { readonly imageId: string; readonly part: 'ram' | 'devices' }) {
    this.#key = hkdf32(diskKey, `collective memory image v1 ${options.imageId} ${options.part}`);
  }

  /** Encrypts or decrypts in place what lies, or is to lie, at `byteOffset`, a multiple of 16. */
  apply(bytes: Buffer, byteOffset: number): void {
    this.stream(byteOffset).update(bytes, bytes);
  }

  /** From `byteOffset` on, in pieces of any length. */
  stream(byteOffset = 0): BlockCipher {
    const counter = Buffer.alloc(BLOCK_BYTES);
    counter.writeBigUInt64BE(BigInt(byteOffset / BLOCK_BYTES), 8);
    return newBlockCipher('ctr', this.#key, counter);
  }
}
