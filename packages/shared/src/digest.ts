/**
 * The names of blocks, pages and files: SHA-256 for what is published, HMAC-SHA-256 for what belongs to a person
 * (docs/formats/blocks.md). Text form: 64 lower-case hex digits.
 */
import { createHmac, hash } from 'node:crypto';
import { asBuffer } from './byte-reader.js';
import { type Digest } from './brands.js';
import { CollectiveError } from './errors.js';

export const DIGEST_BYTES = 32;

export const sha256 = (bytes: Uint8Array): Digest => hash('sha256', bytes, 'hex') as Digest;

export const sha256Bytes = (bytes: Uint8Array): Buffer => hash('sha256', bytes, 'buffer');

/** The name of a published block: SHA-256 of its uncompressed bytes. */
export const blockDigest = (block: Uint8Array): Digest => sha256(block);

/** The name of a private block: HMAC-SHA-256 under the block-name key (32 bytes) of the epoch. */
export const privateBlockDigest = (key: Uint8Array, block: Uint8Array): Digest =>
  createHmac('sha256', key).update(block).digest('hex') as Digest;

export const digestBytes = (digest: Digest): Buffer => Buffer.from(digest, 'hex');

/** Errors: `malformed` when it is not 32 bytes. */
export const digestFromBytes = (bytes: Uint8Array): Digest => {
  if (bytes.length !== DIGEST_BYTES) throw new CollectiveError('malformed', `digest: ${bytes.length} bytes, not 32`);
  return asBuffer(bytes).toString('hex') as Digest;
};

const ZEROES = Buffer.alloc(65_536);

export const isAllZero = (bytes: Uint8Array): boolean => {
  const buffer = asBuffer(bytes);
  for (let at = 0; at < buffer.length; at += ZEROES.length) {
    const length = Math.min(ZEROES.length, buffer.length - at);
    if (buffer.compare(ZEROES, 0, length, at, at + length) !== 0) return false;
  }
  return true;
};

const zeroBlockDigests = new Map<number, Digest>();

/** SHA-256 of an all-zero block: the one public name that no map may contain, because such a block is *zero*. */
export const zeroBlockDigest = (blockBytes: number): Digest => {
  const known = zeroBlockDigests.get(blockBytes);
  if (known !== undefined) return known;
  const digest = sha256(Buffer.alloc(blockBytes));
  zeroBlockDigests.set(blockBytes, digest);
  return digest;
};
