import { describe, expect, it } from 'vitest';
import { packSegment, planSegments, unpackSegment } from './boot-object.js';
import { SEGMENT_TOUCHES_MAX } from './trace.js';
import { compress } from './zstd.js';

const BLOCK = 4_096;
const blockOf = (text: string): Buffer => Buffer.alloc(BLOCK, text);

describe('a segment of a boot object', () => {
  it('gives back its blocks in their order', () => {
    const blocks = ['one', 'two', 'three'].map(blockOf);
    expect(unpackSegment(packSegment(blocks, { level: 3 }), { touches: 3, blockBytes: BLOCK })).toEqual(blocks);
  });

  it('sends once what blocks have in common', () => {
    const noise = Buffer.from(Array.from({ length: BLOCK }, (_, at) => (at * 7919 + (at >> 3) * 104_729) & 0xff));
    const one = packSegment([noise], { level: 3 }).length;
    expect(packSegment([noise, noise, noise, noise], { level: 3 }).length).toBeLessThan(one + 64);
  });

  it.each([
    ['fewer blocks than it should have', packSegment([blockOf('a')], { level: 3 }), 'malformed'],
    ['more', packSegment([blockOf('a'), blockOf('b'), blockOf('c')], { level: 3 }), 'too-large'],
    ['something else', Buffer.from('no frame'), 'malformed'],
    ['a bomb', compress(Buffer.alloc(1 << 24), 19), 'too-large'],
  ])('is refused when it holds %s', (_, segment, code) => {
    expect(() => unpackSegment(segment, { touches: 2, blockBytes: BLOCK })).toThrow(
      expect.objectContaining({ code }) as Error,
    );
  });

  it.each([0, SEGMENT_TOUCHES_MAX + 1])('has not %d blocks', (count) => {
    expect(() =>
      packSegment(
        Array.from({ length: count }, () => blockOf('a')),
        { level: 3 },
      ),
    ).toThrow();
  });
});

describe('the segments of an object', () => {
  it.each([0, 1, 5, 16, 100, 663])('of %d blocks hold each once, few in the beginning', (count) => {
    const segments = planSegments(count);
    expect(segments.reduce((sum, touches) => sum + touches, 0)).toBe(count);
    expect(segments.every((touches) => touches >= 1 && touches <= SEGMENT_TOUCHES_MAX)).toBe(true);
    if (count >= 4) expect(segments.slice(0, 2)).toEqual([2, 2]);
  });
});
