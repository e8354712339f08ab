/**
 * Private chunk (docs/formats/blocks.md, cipher 1): a chunk whose payload is `nonce 12 | ciphertext | tag 16` under
 * AES-256-GCM. The nonce is random, never derived from the block: another level or library makes another message of
 * the same block, and a repeated nonce would give both away. Associated data: bytes 0 to 15 of the header, and the
 * block's digest, so that a server cannot exchange two chunks of a person.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { type Digest } from './brands.js';
import {
  CHUNK_LEVEL_DEFAULT,
  checkPlainBytes,
  chunkHeaderBytes,
  joinChunk,
  packBlock,
  splitChunk,
  unpackBlock,
} from './chunk.js';
import { digestBytes, privateBlockDigest } from './digest.js';
import { CollectiveError } from './errors.js';

const CIPHER = 'aes-256-gcm';
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** `key` 32 bytes, `epoch` from 1, `digest` the block's private digest; `level` as for public chunks. */
export const encodePrivateChunk = (
  plain: Uint8Array,
  options: { readonly key: Uint8Array; readonly epoch: number; readonly digest: Digest; readonly level?: number },
): Buffer => {
  if (options.epoch < 1) throw new RangeError(`epoch ${options.epoch} cannot be`);
  const { codec, packed } = packBlock(plain, options.level ?? CHUNK_LEVEL_DEFAULT);
  const header = { codec, cipher: CIPHER, epoch: options.epoch, plainBytes: plain.length } as const;
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv(CIPHER, options.key, nonce);
  cipher.setAAD(Buffer.concat([chunkHeaderBytes(header), digestBytes(options.digest)]));
  const body = Buffer.concat([cipher.update(packed), cipher.final()]);
  return joinChunk(header, Buffer.concat([nonce, body, cipher.getAuthTag()]));
};

/**
 * The block, checked against its digest; the caller owns the bytes. Errors: `malformed` (also for another epoch, or a
 * chunk that is not encrypted), `unknown-format`, `too-large`, `digest-mismatch` (also for a wrong key).
 */
export const decodePrivateChunk = (
  chunk: Uint8Array,
  options: {
    readonly key: Uint8Array;
    readonly nameKey: Uint8Array;
    readonly epoch: number;
    readonly digest: Digest;
    readonly plainBytes: number;
  },
): Buffer => {
  const { header, payload } = splitChunk(chunk);
  checkPlainBytes(header, options);
  if (header.cipher !== CIPHER) throw new CollectiveError('malformed', 'chunk: is public, a private one is expected');
  if (header.epoch !== options.epoch) {
    throw new CollectiveError('malformed', `chunk: is of epoch ${header.epoch}, expected ${options.epoch}`);
  }
  const decipher = createDecipheriv(CIPHER, options.key, payload.subarray(0, NONCE_BYTES), {
    authTagLength: TAG_BYTES,
  });
  decipher.setAAD(Buffer.concat([chunkHeaderBytes(header), digestBytes(options.digest)]));
  decipher.setAuthTag(payload.subarray(payload.length - TAG_BYTES));
  const packed = decipher.update(payload.subarray(NONCE_BYTES, payload.length - TAG_BYTES));
  try {
    decipher.final();
  } catch (error) {
    throw new CollectiveError('digest-mismatch', `chunk: block ${options.digest} cannot be decrypted`, {
      cause: error,
    });
  }
  const plain = unpackBlock(header, packed);
  const found = privateBlockDigest(options.nameKey, plain);
  if (found !== options.digest) {
    throw new CollectiveError('digest-mismatch', `chunk: private block ${options.digest} has the digest ${found}`);
  }
  return plain;
};
