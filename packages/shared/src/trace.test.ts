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

  const segmentOf = (touches: number, chunkBytes = 700) => ({ digest: 'cd'.repeat(32) as Digest, touches, chunkBytes });

  it('names the chunks that hold its blocks', () => {
    const divided = { ...trace, segments: [segmentOf(1, 70), segmentOf(2, 131_072)] };
    const bytes = encodeBootTrace(divided);
    expect(decodeBootTrace(bytes)).toEqual(divided);
    expect(bytes.subarray(-38).toString('hex')).toBe(`${'cd'.repeat(32)}${'0200'}${'00000200'}`);
  });

  it.each([
    ['segments that leave a touch out', [segmentOf(2)]],
    ['segments of more touches than there are', [segmentOf(4)]],
    ['a segment of nothing', [segmentOf(0), segmentOf(3)]],
    ['a segment that is shorter than any chunk', [segmentOf(3, 47)]],
    ['a segment that is longer than any chunk', [segmentOf(3, 1_048_653)]],
    ['a segment of more than a chunk can hold', [segmentOf(17)]],
  ])('refuses %s', (_, segments) => {
    const touches =
      segments[0]?.touches === 17
        ? Array.from({ length: 17 }, (_none, blockIndex) => ({
            blockIndex,
            afterMs: 0,
            phase: 0 as const,
            chunkBytes: 0,
          }))
        : trace.touches;
    expect(() => decodeBootTrace(encodeBootTrace({ ...trace, touches, segments }))).toThrow(
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
