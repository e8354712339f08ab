import { expect, it } from 'vitest';
import type { Digest } from '@collective/shared';
import type { ObjectSegment } from './block-store.js';
import { segmentsWorthReading } from './foreseen-segments.js';

const segmentOf = (count: number, chunkBytes: number): ObjectSegment => ({
  digest: 'ab'.repeat(32) as Digest,
  chunkBytes,
  digests: Array.from({ length: count }, (_, at) => String(at).repeat(64) as Digest),
});

it('a segment is worth reading when it is no longer than the chunks of what is missing of it', () => {
  const segment = segmentOf(4, 300);
  const missing = (lengths: readonly number[]) => lengths.map((chunkBytes) => ({ chunkBytes, segment }));
  expect(segmentsWorthReading(missing([100, 100, 100]))).toEqual(new Set([segment]));
  expect(segmentsWorthReading(missing([100, 100, 99]))).toEqual(new Set());
});

it('where the length of a chunk is not known, more than half are missing', () => {
  const segment = segmentOf(4, 300);
  const missing = (count: number) => Array.from({ length: count }, () => ({ segment }));
  expect(segmentsWorthReading(missing(3))).toEqual(new Set([segment]));
  expect(segmentsWorthReading(missing(2))).toEqual(new Set());
});

it('each is judged by itself, and what lies in none is left alone', () => {
  const [one, other] = [segmentOf(2, 100), segmentOf(2, 100)];
  expect(
    segmentsWorthReading([
      { chunkBytes: 100, segment: one },
      { chunkBytes: 99, segment: other },
      { chunkBytes: 500, segment: undefined },
    ]),
  ).toEqual(new Set([one]));
});
