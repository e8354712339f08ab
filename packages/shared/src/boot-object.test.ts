import { describe, expect, it } from 'vitest';
import { decodeSegment, encodeSegment, planSegments } from './boot-object.js';
import { checkStoredChunk, decodeChunk, encodeChunk } from './chunk.js';

const BLOCK = 4_096;
const blockOf = (text: string): Buffer => Buffer.alloc(BLOCK, text);

describe('a segment of a boot object', () => {
  it('is a chunk, and gives back its blocks in their order', () => {
    const blocks = ['one', 'two', 'three'].map(blockOf);
    const { digest, chunk } = encodeSegment(blocks, { level: 3 });
    expect(checkStoredChunk(chunk)).toMatchObject({ cipher: 'none', plainBytes: 3 * BLOCK });
    expect(decodeChunk(chunk, { digest, plainBytes: 3 * BLOCK })).toEqual(Buffer.concat(blocks));
    expect(decodeSegment(chunk, { touches: 3, blockBytes: BLOCK })).toEqual(blocks);
  });

  it('sends once what blocks have in common', () => {
    const noise = Buffer.from(Array.from({ length: BLOCK }, (_, at) => (at * 7919 + (at >> 3) * 104_729) & 0xff));
    const one = encodeSegment([noise], { level: 3 }).chunk.length;
    expect(encodeSegment([noise, noise, noise, noise], { level: 3 }).chunk.length).toBeLessThan(one + 64);
  });

  it.each([
    ['fewer blocks than it should have', encodeSegment([blockOf('a')], { level: 3 }).chunk, 'malformed'],
    ['more', encodeSegment(['a', 'b', 'c'].map(blockOf), { level: 3 }).chunk, 'malformed'],
    ['something else', Buffer.from('no chunk'), 'malformed'],
    ['a bomb', encodeChunk(Buffer.alloc(1_048_576), { level: 19 }), 'malformed'],
  ])('is refused when it holds %s', (_, chunk, code) => {
    expect(() => decodeSegment(chunk, { touches: 2, blockBytes: BLOCK })).toThrow(
      expect.objectContaining({ code }) as Error,
    );
  });
});

describe('the segments of an object', () => {
  it.each([0, 2, 3, 5, 9, 10, 16, 17, 18, 19, 100, 663])(
    'of %d blocks hold each once, few in the beginning',
    (count) => {
      const segments = planSegments(count, { blockBytes: 65_536 });
      expect(segments.reduce((sum, touches) => sum + touches, 0)).toBe(count);
      expect(segments.every((touches) => touches >= 2 && touches <= 8)).toBe(true);
      if (count >= 6) expect(segments.slice(0, 2)).toEqual([2, 2]);
    },
  );

  it('are no longer than a chunk, and there are none of blocks of which a chunk holds one', () => {
    expect(planSegments(9, { blockBytes: 262_144 })).toEqual([2, 2, 3, 2]);
    expect(planSegments(9, { blockBytes: 524_288 })).toEqual([]);
    expect(planSegments(1, { blockBytes: 65_536 })).toEqual([]);
  });
});
