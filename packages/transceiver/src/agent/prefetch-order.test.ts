import { MAP_KIND } from '@collective/shared';
import { describe, expect, it } from 'vitest';
import { changedBlocks, prefetchOrder } from './prefetch-order.js';

/** A map of one letter a block; "." is a block of zeros. */
const mapOf = (letters: string, blockBytes = 65_536) => ({
  blockBytes,
  blockCount: letters.length,
  kinds: Uint8Array.from(letters, (letter) => (letter === '.' ? MAP_KIND.zero : MAP_KIND.public)),
  digestBytes: Buffer.concat([...letters].map((letter) => Buffer.alloc(32, letter))),
});
const lettersOf = (digests: Buffer): string =>
  Array.from({ length: digests.length / 32 }, (_none, at) => String.fromCharCode(digests[at * 32] ?? 0)).join('');
const here = (letters: string) => (digest: Buffer) => letters.includes(String.fromCharCode(digest[0] ?? 0));

describe('what is brought in ahead', () => {
  it('is what boots touch, in their order, then what took the place of what was used', () => {
    const before = { map: mapOf('abcdef'), isHere: here('bdf') };
    expect(lettersOf(prefetchOrder({ map: mapOf('aBCDEF'), traced: [5, 0, 2], before }))).toBe('FaCBD');
  });

  it('is each block once, and none without content', () => {
    const before = { map: mapOf('ab.d'), isHere: here('abd') };
    expect(lettersOf(prefetchOrder({ map: mapOf('XX.X'), traced: [2, 9, 1], before }))).toBe('X');
    // Where there was nothing nobody has used anything.
    expect(lettersOf(prefetchOrder({ map: mapOf('abXd'), traced: [], before }))).toBe('');
  });

  it('is what boots touch alone where no version before is known, or its disk had other blocks', () => {
    expect(lettersOf(prefetchOrder({ map: mapOf('ab'), traced: [1] }))).toBe('b');
    const before = { map: mapOf('cd', 4_096), isHere: here('cd') };
    expect(lettersOf(prefetchOrder({ map: mapOf('ab'), traced: [1], before }))).toBe('b');
  });

  it('a disk may have grown or shrunk', () => {
    expect(changedBlocks(mapOf('abcde'), mapOf('aXc'))).toEqual([1]);
    expect(changedBlocks(mapOf('aX'), mapOf('abcde'))).toEqual([1]);
  });
});
