/** Small inputs that ask for much memory or a deep stack: each is refused before it gets any. */
import { describe, expect, it } from 'vitest';
import { decodeChangedPairs } from './changed-pairs.js';
import { decodeChunkBatch } from './chunk-batch.js';
import { CHUNK_BYTES_MAX, decodeChunk, joinChunk } from './chunk.js';
import { blockDigest } from './digest.js';
import { CollectiveError, type ErrorCode } from './errors.js';
import { magicBytes } from './byte-reader.js';
import { parseStrictJson } from './strict-json.js';
import { compress, decompressBounded } from './zstd.js';

const MIB = 1_048_576;

/** The error's code, and the bytes outside the JavaScript heap that were allocated on the way. */
const refusal = (action: () => unknown): { readonly code: ErrorCode; readonly grownBytes: number } => {
  const before = process.memoryUsage();
  try {
    action();
  } catch (error) {
    const after = process.memoryUsage();
    if (!(error instanceof CollectiveError)) throw error;
    return {
      code: error.code,
      grownBytes: after.external + after.arrayBuffers - before.external - before.arrayBuffers,
    };
  }
  throw new Error('was accepted');
};

const expectRefused = (action: () => unknown, code: ErrorCode): void => {
  const { code: found, grownBytes } = refusal(action);
  expect(found).toBe(code);
  expect(grownBytes).toBeLessThan(4 * MIB);
};

describe('zstd', () => {
  const bomb = compress(Buffer.alloc(256 * MIB), 3);

  it('8 KiB that hold 256 MiB of zeroes are refused', () => {
    expect(bomb.length).toBeLessThan(16_384);
    expectRefused(() => decompressBounded(bomb, 65_536), 'too-large');
  });

  it('a frame that states 1,000 bytes but holds 256 MiB is refused', () => {
    const lying = Buffer.from(bomb);
    // Magic 4, descriptor (four bytes of content size), perhaps a window byte, content size.
    const descriptor = lying.readUInt8(4);
    expect(descriptor >> 6).toBe(2);
    lying.writeUInt32LE(1_000, (descriptor & 0x20) === 0 ? 6 : 5);
    expectRefused(() => decompressBounded(lying, 65_536), 'malformed');
  });

  it('two frames, a frame and a byte, a skippable frame and a frame without its size are refused', () => {
    const frame = compress(Buffer.alloc(100, 1), 3);
    const skippable = Buffer.from('502a4d1801000000ff', 'hex');
    for (const bytes of [
      Buffer.concat([frame, frame]),
      Buffer.concat([frame, Buffer.from([0])]),
      Buffer.concat([skippable, frame]),
      Buffer.concat([frame, skippable]),
      Buffer.concat([frame, compress(Buffer.alloc(0), 3)]),
      // Magic, no content size, window 1 KiB, one last raw block of one byte.
      Buffer.from('28b52ffd000009000041', 'hex'),
      Buffer.alloc(0),
    ]) {
      expectRefused(() => decompressBounded(bytes, 65_536), 'malformed');
    }
    expect(decompressBounded(frame, 100)).toEqual(Buffer.alloc(100, 1));
  });

  it('a block of exactly the allowed length is accepted, one byte more is not', () => {
    const frame = compress(Buffer.alloc(65_536, 7), 3);
    expect(decompressBounded(frame, 65_536).length).toBe(65_536);
    expectRefused(() => decompressBounded(frame, 65_535), 'too-large');
  });
});

describe('chunk', () => {
  const digest = blockDigest(Buffer.alloc(65_536));

  it('whose frame holds more than its header says is refused', () => {
    const header = { codec: 'zstd', cipher: 'none', epoch: 0, plainBytes: 65_536 } as const;
    const chunk = joinChunk(header, compress(Buffer.alloc(256 * MIB), 3));
    expectRefused(() => decodeChunk(chunk, { digest, plainBytes: 65_536 }), 'too-large');
  });

  it('whose header says 4 GiB is refused', () => {
    const header = { codec: 'zstd', cipher: 'none', epoch: 0, plainBytes: 0xffff_ffff } as const;
    expectRefused(() => decodeChunk(joinChunk(header, Buffer.alloc(100)), { digest }), 'too-large');
  });

  it('that is longer than any chunk is refused without being hashed', () => {
    expectRefused(() => decodeChunk(Buffer.alloc(CHUNK_BYTES_MAX + 1), { digest }), 'too-large');
  });
});

describe('counts', () => {
  it('changed pairs that claim 2^27 or 2^32 entries in 20 bytes are refused', () => {
    const header = Buffer.alloc(20);
    magicBytes('CPL', 1).copy(header);
    header.writeUInt32LE(65_536, 4);
    header.writeBigUInt64LE(2n ** 44n, 8);
    header.writeUInt32LE(2 ** 27, 16);
    expectRefused(() => decodeChangedPairs(header), 'malformed');
    header.writeUInt32LE(0xffff_ffff, 16);
    expectRefused(() => decodeChangedPairs(header), 'too-large');
  });

  it('a batch that claims 8,192 or 2^32 records in 8 bytes is refused', () => {
    const header = Buffer.concat([magicBytes('CBT', 1), Buffer.alloc(4)]);
    header.writeUInt32LE(8_192, 4);
    expectRefused(() => decodeChunkBatch(header), 'malformed');
    header.writeUInt32LE(0xffff_ffff, 4);
    expectRefused(() => decodeChunkBatch(header), 'too-large');
  });

  it('JSON of 100,000 opening brackets or braces is refused without a deep stack', () => {
    for (const opening of ['[', '{"a":']) {
      const bytes = Buffer.from(opening.repeat(100_000));
      expectRefused(() => parseStrictJson(bytes, { bytesMax: bytes.length }), 'malformed');
    }
  });
});
