import { MAP_KIND } from '@collective/shared';
import { describe, expect, it } from 'vitest';
import { blocksHere, changedBlocks, digestsOf, prefetchOrder } from './prefetch-order.js';

/** A map of one letter a block; "." is a block of zeros. */
const mapOf = (letters: string, blockBytes = 65_536) => ({
  blockBytes,
  blockCount: letters.length,
  kinds: Uint8Array.from(letters, (letter) => (letter === '.' ? MAP_KIND.zero : MAP_KIND.public)),
  digestBytes: Buffer.concat([...letters].map((letter) => Buffer.alloc(32, letter))),
});
const lettersOf = (digests: Buffer): string =>
  Array.from({ length: digests.length / 32 }, (_none, at) => String.fromCharCode(digests[at * 32] ?? 0)).join('');
type Mapped = ReturnType<typeof mapOf>;
/** Of the version before, the blocks of these letters are in the cache. */
const orderOf = async (
  map: Mapped,
  traced: readonly number[],
  [before, here]: readonly [Mapped, string],
  usual: readonly number[] = [],
): Promise<string> => {
  const changed = await changedBlocks(map, before);
  const missing = [...lettersOf(digestsOf(before, changed))].filter((letter) => !here.includes(letter)).join('');
  const used = blocksHere(before, changed, missing === '' ? Buffer.alloc(0) : mapOf(missing).digestBytes);
  return lettersOf(prefetchOrder({ map, traced, used, usual }));
};

describe('what is brought in ahead', () => {
  it('is what boots touch, in their order, then what took the place of what was used', async () => {
    expect(await orderOf(mapOf('aBCDEF'), [5, 0, 2], [mapOf('abcdef'), 'bdf'])).toBe('FaCBD');
  });

  it('is then what sessions of all users touch, in the order that it is given, and nothing that nobody touched', async () => {
    expect(await orderOf(mapOf('aBCDEFGH'), [5, 0], [mapOf('abcdefgh'), 'bd'], [6, 1, 4])).toBe('FaBDGE');
  });

  it('is each block once, and none without content', async () => {
    const before = [mapOf('ab.d'), 'abd'] as const;
    expect(await orderOf(mapOf('XX.X'), [2, 9, 1], before)).toBe('X');
    // Where there was nothing nobody has used anything.
    expect(await orderOf(mapOf('abXd'), [], before)).toBe('');
  });

  it('is what boots touch alone where no version before is known, or its disk had other blocks', async () => {
    expect(lettersOf(prefetchOrder({ map: mapOf('ab'), traced: [1], used: [], usual: [] }))).toBe('b');
    expect(await orderOf(mapOf('ab'), [1], [mapOf('cd', 4_096), 'cd'])).toBe('b');
  });

  it('a block that was there several times is here or missing everywhere', async () => {
    expect(await orderOf(mapOf('ABCDE'), [], [mapOf('xyxyz'), 'x'])).toBe('AC');
    expect(await orderOf(mapOf('ABCDE'), [], [mapOf('xyxyz'), 'yz'])).toBe('BDE');
  });

  it('a disk may have grown or shrunk', async () => {
    expect(await changedBlocks(mapOf('abcde'), mapOf('aXc'))).toEqual([1]);
    expect(await changedBlocks(mapOf('aX'), mapOf('abcde'))).toEqual([1]);
  });
});
