/** What every BlockStore does, whoever it is: run against each decorator and double. */
import { expect, it } from 'vitest';
import { blockDigest, type Digest } from '@collective/shared';
import { RANK, type BlockStore } from '../block-store.js';
import { testDisk } from './test-disk.js';
import { requestFor } from './test-stores.js';

const BLOCK = 65_536;

export type ContractStore = { readonly store: BlockStore; readonly close?: () => Promise<void> };

/** `open` gets the blocks that the store has to have. */
export const itIsABlockStore = (
  open: (blocks: ReadonlyMap<Digest, Buffer>, chunks: ReadonlyMap<Digest, Buffer>) => Promise<ContractStore>,
): void => {
  const disk = testDisk({ diskBytes: 8 * BLOCK, blockBytes: BLOCK, noZeroes: true });
  const digests = [...disk.blocks.keys()];
  const withStore = async (work: (store: BlockStore) => Promise<void>): Promise<void> => {
    const { store, close } = await open(disk.blocks, disk.chunks);
    try {
      await work(store);
    } finally {
      await close?.();
    }
  };

  it('gives the block that has the digest, whole', () =>
    withStore(async (store) => {
      for (const digest of digests) {
        const block = await store.get(requestFor(digest), { rank: RANK.demand });
        expect(block.length).toBe(BLOCK);
        expect(blockDigest(block)).toBe(digest);
      }
    }));

  it('gives the same block to many at once, in every class', () =>
    withStore(async (store) => {
      const requests = (['demand', 'trace', 'hoard', 'background'] as const).flatMap((fetchClass) =>
        digests.map(
          async (digest) => blockDigest(await store.get(requestFor(digest), { rank: RANK[fetchClass] })) === digest,
        ),
      );
      expect((await Promise.all(requests)).every(Boolean)).toBe(true);
    }));

  it('rejects with the reason of a signal that was aborted before', () =>
    withStore(async (store) => {
      const reason = new Error('not wanted');
      await expect(
        store.get(requestFor(digests[0] ?? ('' as Digest)), { rank: RANK.demand, signal: AbortSignal.abort(reason) }),
      ).rejects.toBe(reason);
    }));

  it('says block-missing for what is not there when nobody waits for ever', () =>
    withStore(async (store) => {
      const missing = 'ee'.repeat(32) as Digest;
      await expect(store.get(requestFor(missing), { rank: RANK.background })).rejects.toMatchObject({
        code: 'block-missing',
      });
    }));
};
