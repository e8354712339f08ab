import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CHUNK_BATCH_BYTES_MAX, decodeChunkBatch, encodeChunkBatch } from './chunk-batch.js';
import { CHUNK_HEADER_BYTES, checkStoredChunk, decodeChunk, encodeChunk, joinChunk } from './chunk.js';
import { blockDigest, isAllZero, privateBlockDigest } from './digest.js';
import { decodePrivateChunk, encodePrivateChunk } from './private-chunk.js';
import { codeOf } from './testing/code-of.js';
import { countingBytes } from './testing/golden-examples.js';
import { compress } from './zstd.js';

const text = Buffer.alloc(65_536, 'what compresses ');
const noise = randomBytes(65_536);

describe('chunk', () => {
  it('gives back any block of any length, at any level', () => {
    const block = fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 5_000 }),
      fc.nat({ max: 255 }).map((byte) => new Uint8Array(4_096).fill(byte)),
    );
    fc.assert(
      fc.property(block, fc.constantFrom(1, 3, 9, 19), (plain, level) => {
        const chunk = encodeChunk(plain, { level });
        expect(chunk.length).toBeLessThanOrEqual(CHUNK_HEADER_BYTES + plain.length);
        expect(decodeChunk(chunk, { digest: blockDigest(plain), plainBytes: plain.length })).toEqual(
          Buffer.from(plain),
        );
      }),
      { numRuns: 60 },
    );
  });

  it('is raw when zstd saves nothing', () => {
    expect(checkStoredChunk(encodeChunk(text)).codec).toBe('zstd');
    expect(checkStoredChunk(encodeChunk(noise))).toEqual({
      codec: 'raw',
      cipher: 'none',
      epoch: 0,
      plainBytes: 65_536,
    });
  });

  it('of another block, or of another length than the disk has, is refused', () => {
    const chunk = encodeChunk(text);
    expect(codeOf(() => decodeChunk(chunk, { digest: blockDigest(noise) }))).toBe('digest-mismatch');
    expect(codeOf(() => decodeChunk(chunk, { digest: blockDigest(text), plainBytes: 4_096 }))).toBe('malformed');
    expect(codeOf(() => decodeChunk(chunk, { digest: blockDigest(text), plainBytesMax: 4_136 }))).toBe('too-large');
  });

  it('with a raw payload of another length, or a zstd payload that saves nothing, is refused', () => {
    const header = { codec: 'raw', cipher: 'none', epoch: 0, plainBytes: 65_536 } as const;
    expect(codeOf(() => checkStoredChunk(joinChunk(header, noise.subarray(1))))).toBe('malformed');
    expect(codeOf(() => checkStoredChunk(joinChunk({ ...header, codec: 'zstd' }, compress(noise, 3))))).toBe(
      'malformed',
    );
    expect(codeOf(() => checkStoredChunk(joinChunk(header, noise)))).toBe('value');
  });

  it('may be replaced by a smaller one of the same block', () => {
    const block = Buffer.from(Array.from({ length: 65_536 }, (_unused, index) => (index * index) >> 7));
    expect(decodeChunk(encodeChunk(block, { level: 19 }), { digest: blockDigest(block) })).toEqual(block);
  });

  it('shares no memory with the block that comes out of it', () => {
    const chunk = encodeChunk(noise);
    const block = decodeChunk(chunk, { digest: blockDigest(noise) });
    chunk.fill(0);
    expect(block.equals(noise)).toBe(true);
  });
});

describe('private chunk', () => {
  const key = countingBytes(32, 1);
  const nameKey = countingBytes(32, 2);
  const block = text.subarray(0, 16_384);
  const digest = privateBlockDigest(nameKey, block);
  const chunk = encodePrivateChunk(block, { key, epoch: 2, digest });
  const options = { key, nameKey, epoch: 2, digest, plainBytes: 16_384 };

  it('opens with its key, and says nothing without: equal blocks do not look alike', () => {
    expect(decodePrivateChunk(chunk, options).equals(block)).toBe(true);
    const again = encodePrivateChunk(block, { key, epoch: 2, digest });
    expect(again.length).toBe(chunk.length);
    expect(again.subarray(CHUNK_HEADER_BYTES).equals(chunk.subarray(CHUNK_HEADER_BYTES))).toBe(false);
    expect(checkStoredChunk(chunk)).toEqual({ codec: 'zstd', cipher: 'aes-256-gcm', epoch: 2, plainBytes: 16_384 });
  });

  it('is refused under another key, name key, epoch or digest, and as a public chunk', () => {
    const other = privateBlockDigest(nameKey, noise);
    expect(codeOf(() => decodePrivateChunk(chunk, { ...options, key: nameKey }))).toBe('digest-mismatch');
    expect(codeOf(() => decodePrivateChunk(chunk, { ...options, nameKey: key }))).toBe('digest-mismatch');
    expect(codeOf(() => decodePrivateChunk(chunk, { ...options, digest: other }))).toBe('digest-mismatch');
    expect(codeOf(() => decodePrivateChunk(chunk, { ...options, epoch: 1 }))).toBe('malformed');
    expect(codeOf(() => decodeChunk(chunk, { digest }))).toBe('malformed');
    expect(codeOf(() => decodePrivateChunk(encodeChunk(block), options))).toBe('malformed');
  });

  it('keeps a block that does not compress', () => {
    const name = privateBlockDigest(nameKey, noise);
    const raw = encodePrivateChunk(noise, { key, epoch: 2, digest: name });
    expect(raw.length).toBe(CHUNK_HEADER_BYTES + noise.length + 28);
    expect(decodePrivateChunk(raw, { ...options, digest: name, plainBytes: 65_536 }).equals(noise)).toBe(true);
  });
});

describe('chunk batch', () => {
  it('gives back its records in order, also none', () => {
    const records = [text, noise, text].map((block) => ({ digest: blockDigest(block), chunk: encodeChunk(block) }));
    expect(decodeChunkBatch(encodeChunkBatch(records))).toEqual(records);
    expect(decodeChunkBatch(encodeChunkBatch([]))).toEqual([]);
  });

  it('is not made larger than its maximum', () => {
    const record = { digest: blockDigest(noise), chunk: encodeChunk(randomBytes(1_048_576)) };
    expect(encodeChunkBatch(Array(4).fill(record)).length).toBeLessThanOrEqual(CHUNK_BATCH_BYTES_MAX);
    expect(codeOf(() => encodeChunkBatch(Array(6).fill(record)))).toBe('too-large');
    const small = { digest: blockDigest(text), chunk: encodeChunk(Buffer.from([1])) };
    expect(codeOf(() => encodeChunkBatch(Array(8_193).fill(small)))).toBe('too-large');
    expect(codeOf(() => encodeChunkBatch([{ digest: small.digest, chunk: Buffer.alloc(48) }]))).toBe('malformed');
  });
});

describe('isAllZero', () => {
  it('finds a single bit anywhere, in blocks of any length', () => {
    for (const length of [0, 1, 4_095, 65_536, 65_537, 1_048_576]) {
      expect(isAllZero(Buffer.alloc(length))).toBe(true);
      for (const at of [0, length >> 1, length - 1]) {
        if (at < 0 || at >= length) continue;
        const block = Buffer.alloc(length);
        block[at] = 1;
        expect(isAllZero(block)).toBe(false);
      }
    }
  });
});
