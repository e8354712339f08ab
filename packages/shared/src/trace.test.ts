import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Digest } from './brands.js';
import { CollectiveError } from './errors.js';
import { type BootTrace, decodeBootTrace, encodeBootTrace } from './trace.js';

const root = 'ab'.repeat(32) as Digest;
const trace: BootTrace = {
  version: 7,
  root,
  blockBytes: 65_536,
  touches: [
    { blockIndex: 0, afterMs: 0, phase: 0, chunkBytes: 0 },
    { blockIndex: 4_000_000_000, afterMs: 12, phase: 1, chunkBytes: 0 },
    { blockIndex: 17, afterMs: 12, phase: 3, chunkBytes: 0 },
  ],
};

describe('boot trace', () => {
  it('reads back what was written', () => {
    expect(decodeBootTrace(encodeBootTrace(trace))).toEqual(trace);
  });

  it('has the documented layout', () => {
    const bytes = encodeBootTrace({ ...trace, touches: [{ blockIndex: 258, afterMs: 3, phase: 2, chunkBytes: 515 }] });
    expect(bytes.toString('hex')).toBe(
      `43545202${'07000000'}${'ab'.repeat(32)}${'00000100'}${'01000000'}${'00000000'}${'02010000'}${'03000000'}02${'03020000'}`,
    );
  });

  it('says how its object is divided', () => {
    const divided = {
      ...trace,
      object: {
        digest: 'cd'.repeat(32) as Digest,
        segments: [
          { touches: 1, byteLength: 70 },
          { touches: 2, byteLength: 131_072 },
        ],
      },
    };
    const bytes = encodeBootTrace(divided);
    expect(decodeBootTrace(bytes)).toEqual(divided);
    expect(bytes.subarray(-44).toString('hex')).toBe(`${'cd'.repeat(32)}${'0100'}${'46000000'}${'0200'}${'00000200'}`);
  });

  it.each([
    ['segments that leave a touch out', [{ touches: 2, byteLength: 9 }]],
    ['segments of more touches than there are', [{ touches: 4, byteLength: 9 }]],
    [
      'a segment of nothing',
      [
        { touches: 0, byteLength: 9 },
        { touches: 3, byteLength: 9 },
      ],
    ],
    ['a segment without bytes', [{ touches: 3, byteLength: 0 }]],
    ['a segment that is longer than its blocks', [{ touches: 3, byteLength: 3 * 65_536 + 4_097 }]],
  ])('refuses %s', (_, segments) => {
    const bad = { ...trace, object: { digest: 'cd'.repeat(32) as Digest, segments } };
    expect(() => decodeBootTrace(encodeBootTrace(bad))).toThrow(
      expect.objectContaining({ code: 'malformed' }) as Error,
    );
  });

  it.each([
    [
      'a block that is there twice',
      { ...trace, touches: [...trace.touches, { blockIndex: 0, afterMs: 13, phase: 0 as const, chunkBytes: 0 }] },
    ],
    [
      'times that descend',
      { ...trace, touches: [...trace.touches, { blockIndex: 5, afterMs: 1, phase: 0 as const, chunkBytes: 0 }] },
    ],
    ['a block size that does not exist', { ...trace, blockBytes: 5000 }],
  ])('refuses %s', (_, bad) => {
    expect(() => decodeBootTrace(encodeBootTrace(bad))).toThrow(
      expect.objectContaining({ code: 'malformed' }) as Error,
    );
  });

  it('gives a value or a typed error for any damage', () => {
    const bytes = encodeBootTrace(trace);
    fc.assert(
      fc.property(
        fc.nat(bytes.length - 1),
        fc.integer({ min: 1, max: 255 }),
        fc.nat(bytes.length),
        (at, flip, length) => {
          const damaged = Buffer.from(bytes.subarray(0, Math.max(length, 1)));
          if (at < damaged.length) damaged[at] = (damaged[at] ?? 0) ^ flip;
          try {
            decodeBootTrace(damaged);
          } catch (error) {
            expect(error).toBeInstanceOf(CollectiveError);
          }
        },
      ),
    );
  });
});
