import type { Digest } from '@collective/shared';
import { describe, expect, it } from 'vitest';
import type { BlockRequest, GetOptions } from './block-store.js';
import { hoardBlocks, readDigests } from './hoard-blocks.js';

const A = 'aa'.repeat(32) as Digest;
const B = 'bb'.repeat(32) as Digest;

/** A cache with room for some blocks. */
const cacheFor = (room: number) => {
  const cached = new Set<Digest>();
  const pinned = new Set<Digest>();
  const asked: string[] = [];
  return {
    pinned,
    asked,
    bring: ({ digest }: BlockRequest, { rank }: GetOptions): Promise<Buffer | undefined> => {
      asked.push(rank.fetchClass);
      if (cached.size >= room && !cached.has(digest)) return Promise.resolve(Buffer.from('block'));
      cached.add(digest);
      return Promise.resolve(undefined);
    },
    pin: (digests: readonly Digest[]): Promise<number> => {
      const found = digests.filter((digest) => cached.has(digest));
      for (const digest of found) pinned.add(digest);
      return Promise.resolve(found.length);
    },
  };
};

describe('hoarding blocks', () => {
  it('brings them in behind everything that a guest wants, and keeps them', async () => {
    const fetcher = cacheFor(2);
    await hoardBlocks([A, B], { blockBytes: 65_536, fetcher });
    expect([...fetcher.pinned]).toEqual([A, B]);
    expect(fetcher.asked).toEqual(['hoard', 'hoard']);
  });

  it('says when the cache has no room for all of them', async () => {
    const fetcher = cacheFor(1);
    await expect(hoardBlocks([A, B], { blockBytes: 65_536, fetcher })).rejects.toMatchObject({ code: 'disk-full' });
  });

  it('reads the digests of a list, and refuses one that is none', async () => {
    const listOf = (bytes: Buffer) => ({ readWhole: () => Promise.resolve(bytes) });
    expect(await readDigests(listOf(Buffer.from(A + B, 'hex')), '/list')).toEqual([A, B]);
    await expect(readDigests(listOf(Buffer.alloc(33)), '/list')).rejects.toMatchObject({ code: 'malformed' });
  });
});
