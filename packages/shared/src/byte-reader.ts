/**
 * Reads fixed-width little-endian fields from bytes that nobody has checked yet. Each read checks the length first,
 * so a decoder built on it has two outcomes: a value or a CollectiveError `malformed`. Slices are views, not copies.
 */
import { CollectiveError } from './errors.js';

export class ByteReader {
  readonly #bytes: Buffer;
  readonly #what: string;
  #byteOffset = 0;

  /** `what` names the format in error messages, e.g. "chunk". */
  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = asBuffer(bytes);
    this.#what = what;
  }

  get byteOffset(): number {
    return this.#byteOffset;
  }

  get bytesLeft(): number {
    return this.#bytes.length - this.#byteOffset;
  }

  u8(): number {
    return this.#bytes.readUInt8(this.#advance(1));
  }

  u16(): number {
    return this.#bytes.readUInt16LE(this.#advance(2));
  }

  u32(): number {
    return this.#bytes.readUInt32LE(this.#advance(4));
  }

  /** A 64-bit value; more than 2^53 - 1 is refused. */
  u64(): number {
    const at = this.#advance(8);
    const value = this.#bytes.readUInt32LE(at) + this.#bytes.readUInt32LE(at + 4) * 0x1_0000_0000;
    if (!Number.isSafeInteger(value)) throw this.error(`the 64-bit value at byte ${at} is above 2^53 - 1`);
    return value;
  }

  /** A view of the next `byteLength` bytes. */
  take(byteLength: number): Buffer {
    const at = this.#advance(byteLength);
    return this.#bytes.subarray(at, at + byteLength);
  }

  /** A view of all that is left. */
  rest(): Buffer {
    return this.take(this.bytesLeft);
  }

  /**
   * Four bytes: three letters and the format's version in the last one. Another version of the same format is
   * `unknown-format`, anything else `malformed`.
   */
  magic(expected: Uint8Array): void {
    const found = this.take(4);
    if (found.equals(expected)) return;
    if (found.subarray(0, 3).equals(expected.subarray(0, 3))) {
      throw new CollectiveError('unknown-format', `${this.#what}: format version ${found[3] ?? 0} is not known`);
    }
    throw this.error(`begins with ${found.toString('hex')}, not with ${Buffer.from(expected).toString('hex')}`);
  }

  reserved(byteLength: number): void {
    if (this.take(byteLength).some((byte) => byte !== 0)) throw this.error('reserved bytes are not zero');
  }

  end(): void {
    if (this.bytesLeft > 0) throw this.error(`${this.bytesLeft} bytes follow the end`);
  }

  error(message: string): CollectiveError {
    return new CollectiveError('malformed', `${this.#what}: ${message}`);
  }

  #advance(byteLength: number): number {
    const at = this.#byteOffset;
    if (byteLength > this.#bytes.length - at) {
      throw this.error(`ends at byte ${this.#bytes.length}, but ${byteLength} bytes are wanted at byte ${at}`);
    }
    this.#byteOffset = at + byteLength;
    return at;
  }
}

/** The same memory as a Buffer. */
export const asBuffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** A magic of three letters and a version, as four bytes. */
export const magicBytes = (letters: string, version: number): Buffer =>
  Buffer.concat([Buffer.from(letters, 'ascii'), Buffer.from([version])]);
