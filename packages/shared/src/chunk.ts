/**
 * Chunk, version 1 (docs/formats/blocks.md): the stored and transferred form of one block or map page.
 *
 *   magic 4 | codec 1 | cipher 1 | reserved 2 | epoch 4 | plainBytes 4 | payloadDigest 32 | payload …
 *
 * The payload digest lets a server or a scrub verify a stored chunk without a key; it never replaces the last check
 * of a reader, which is the caller's digest over the plain bytes.
 */
import { type Digest } from './brands.js';
import { ByteReader, magicBytes } from './byte-reader.js';
import { sha256, sha256Bytes } from './digest.js';
import { CollectiveError } from './errors.js';
import { compress, decompressBounded } from './zstd.js';

export const CHUNK_HEADER_BYTES = 48;
export const CHUNK_PLAIN_BYTES_MAX = 1_048_576;
/** What AES-256-GCM adds to a payload: a nonce of 12 bytes and a tag of 16. */
export const CIPHER_BYTES = 28;
export const CHUNK_BYTES_MAX = CHUNK_HEADER_BYTES + CHUNK_PLAIN_BYTES_MAX + CIPHER_BYTES;
export const CHUNK_LEVEL_DEFAULT = 3;

const MAGIC = magicBytes('CCK', 1);
const RAW = 0;
const ZSTD = 1;

export type ChunkCodec = 'raw' | 'zstd';
export type ChunkCipher = 'none' | 'aes-256-gcm';
export type ChunkHeader = {
  readonly codec: ChunkCodec;
  readonly cipher: ChunkCipher;
  /** 0 when the cipher is `none`. */
  readonly epoch: number;
  readonly plainBytes: number;
};

/** A public chunk. `level` 1 to 19, 3 when absent; raw when zstd saves nothing. */
export const encodeChunk = (plain: Uint8Array, options: { readonly level?: number } = {}): Buffer => {
  const { codec, packed } = packBlock(plain, options.level ?? CHUNK_LEVEL_DEFAULT);
  return joinChunk({ codec, cipher: 'none', epoch: 0, plainBytes: plain.length }, packed);
};

/**
 * The block or page of a public chunk, checked against its digest; the caller owns the bytes. `plainBytes` is the
 * exact length (a disk's block size), `plainBytesMax` a bound (a page). Errors: `malformed`, `unknown-format`,
 * `too-large`, `digest-mismatch`.
 */
export const decodeChunk = (
  chunk: Uint8Array,
  expected: { readonly digest: Digest; readonly plainBytes?: number; readonly plainBytesMax?: number },
): Buffer => {
  const plain = unpackChunk(chunk, expected);
  const found = sha256(plain);
  if (found !== expected.digest) {
    throw new CollectiveError('digest-mismatch', `chunk: block ${expected.digest} has the digest ${found}`);
  }
  return plain;
};

/** The same for a reader that checks what is in it piece by piece: header, lengths and payload digest are right, the content is anybody's. */
export const unpackChunk = (
  chunk: Uint8Array,
  expected: { readonly plainBytes?: number; readonly plainBytesMax?: number },
): Buffer => {
  const { header, payload } = splitChunk(chunk);
  checkPlainBytes(header, expected);
  if (header.cipher !== 'none') throw malformed('is encrypted, a public one is expected');
  return unpackBlock(header, payload);
};

/** What a server or a scrub can say of a chunk without a key: header, lengths and payload digest are right. */
export const checkStoredChunk = (chunk: Uint8Array): ChunkHeader => splitChunk(chunk).header;

/** For the codecs of chunks only: header fields and payload, lengths and payload digest checked, payload a view. */
export const splitChunk = (chunk: Uint8Array): { readonly header: ChunkHeader; readonly payload: Buffer } => {
  if (chunk.length > CHUNK_BYTES_MAX) {
    throw new CollectiveError('too-large', `chunk: ${chunk.length} bytes, at most ${CHUNK_BYTES_MAX} are allowed`);
  }
  const reader = new ByteReader(chunk, 'chunk');
  const header = readHeader(reader);
  const payloadDigest = reader.take(32);
  const payload = reader.rest();
  checkPayloadBytes(header, payload.length);
  if (!sha256Bytes(payload).equals(payloadDigest)) {
    throw new CollectiveError('digest-mismatch', 'chunk: the payload does not have its digest');
  }
  return { header, payload };
};

/** For the codecs of chunks only: the header bytes that precede the payload digest (also associated data). */
export const chunkHeaderBytes = (header: ChunkHeader): Buffer => {
  const bytes = Buffer.alloc(16);
  MAGIC.copy(bytes);
  bytes.writeUInt8(header.codec === 'zstd' ? ZSTD : RAW, 4);
  bytes.writeUInt8(header.cipher === 'none' ? 0 : 1, 5);
  bytes.writeUInt32LE(header.epoch, 8);
  bytes.writeUInt32LE(header.plainBytes, 12);
  return bytes;
};

/** For the codecs of chunks only. */
export const joinChunk = (header: ChunkHeader, payload: Uint8Array): Buffer =>
  Buffer.concat([chunkHeaderBytes(header), sha256Bytes(payload), payload]);

/** For the codecs of chunks only: the plain block as it goes into the payload (or under the cipher). */
export const packBlock = (plain: Uint8Array, level: number): { codec: ChunkCodec; packed: Uint8Array } => {
  if (plain.length < 1 || plain.length > CHUNK_PLAIN_BYTES_MAX) {
    throw new RangeError(`a chunk holds 1 to ${CHUNK_PLAIN_BYTES_MAX} bytes, not ${plain.length}`);
  }
  const packed = compress(plain, level);
  return packed.length < plain.length ? { codec: 'zstd', packed } : { codec: 'raw', packed: plain };
};

/** For the codecs of chunks only. What comes back shares no memory with the chunk. */
export const unpackBlock = (header: ChunkHeader, packed: Buffer): Buffer => {
  if (header.codec === 'raw') return Buffer.from(packed);
  const plain = decompressBounded(packed, header.plainBytes);
  if (plain.length !== header.plainBytes) {
    throw malformed(`holds ${plain.length} bytes, its header says ${header.plainBytes}`);
  }
  return plain;
};

/** For the codecs of chunks only: is the stated length the one that the caller expects? */
export const checkPlainBytes = (
  header: ChunkHeader,
  expected: { readonly plainBytes?: number; readonly plainBytesMax?: number },
): void => {
  if (expected.plainBytes !== undefined && header.plainBytes !== expected.plainBytes) {
    throw malformed(`its block has ${header.plainBytes} bytes, expected ${expected.plainBytes}`);
  }
  if (expected.plainBytesMax !== undefined && header.plainBytes > expected.plainBytesMax) {
    throw new CollectiveError(
      'too-large',
      `chunk: its block has ${header.plainBytes} bytes, at most ${expected.plainBytesMax} are allowed`,
    );
  }
};

const readHeader = (reader: ByteReader): ChunkHeader => {
  reader.magic(MAGIC);
  const codec = reader.u8();
  if (codec > ZSTD) throw reader.error(`codec ${codec} is not known`);
  const cipher = reader.u8();
  if (cipher > 1) throw reader.error(`cipher ${cipher} is not known`);
  reader.reserved(2);
  const epoch = reader.u32();
  if ((epoch === 0) !== (cipher === 0)) throw reader.error(`epoch ${epoch} does not go with cipher ${cipher}`);
  const plainBytes = reader.u32();
  if (plainBytes === 0) throw reader.error('its block is empty');
  if (plainBytes > CHUNK_PLAIN_BYTES_MAX) {
    throw new CollectiveError(
      'too-large',
      `chunk: its block has ${plainBytes} bytes, at most ${CHUNK_PLAIN_BYTES_MAX}`,
    );
  }
  return { codec: codec === ZSTD ? 'zstd' : 'raw', cipher: cipher === 0 ? 'none' : 'aes-256-gcm', epoch, plainBytes };
};

// Raw has exactly the block's length; zstd must have saved something, or one block would have two valid forms.
const checkPayloadBytes = (header: ChunkHeader, payloadBytes: number): void => {
  const packedBytes = header.cipher === 'none' ? payloadBytes : payloadBytes - CIPHER_BYTES;
  const isRight =
    header.codec === 'raw' ? packedBytes === header.plainBytes : packedBytes >= 1 && packedBytes < header.plainBytes;
  if (!isRight)
    throw malformed(
      `a payload of ${payloadBytes} bytes does not go with ${header.codec}, ${header.cipher} and a block of ${header.plainBytes} bytes`,
    );
};

const malformed = (message: string): CollectiveError => new CollectiveError('malformed', `chunk: ${message}`);
