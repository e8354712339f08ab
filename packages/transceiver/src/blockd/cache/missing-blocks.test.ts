import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { blockDigest, type Digest } from '@collective/shared';
import { expect, test } from 'vitest';
import { RANK, type BlockStore } from '../block-store.js';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { openLocalCache, temporaryFolder } from '../testing/local-cache.js';
import { findMissing } from './missing-blocks.js';

const BLOCK = 65_536;
const blocks = Array.from({ length: 9_000 }, (_, at) => Buffer.alloc(32, at % 251).fill(at >> 8, 0, 8));
const block = (at: number): Buffer => Buffer.alloc(BLOCK, at + 1);

test('counts what is not in the cache, each block as often as it is in the list', async () => {
  await using temporary = await temporaryFolder();
  const { folder } = temporary;
  const stored = new Map<Digest, Buffer>([0, 1, 2].map((at) => [blockDigest(block(at)), block(at)]));
  const below: BlockStore = {
    get: async ({ digest }) => stored.get(digest) ?? Promise.reject(new Error('not here')),
  };
  const cache = await openLocalCache(folder, below);
  const list = path.join(folder, 'list');
  const count = async (digests: readonly Buffer[]) => {
    await writeFile(list, Buffer.concat(digests));
    const { blocks: all, missing } = await findMissing(new LocalFileSystem(), list, cache.reader);
    return { blocks: all, missing: missing.length / 32 };
  };
  const [first, second] = [...stored.keys()].map((digest) => Buffer.from(digest, 'hex'));
  if (first === undefined || second === undefined) throw new Error('no blocks');
  expect(await count([])).toEqual({ blocks: 0, missing: 0 });
  expect(await count([first, second, first])).toEqual({ blocks: 3, missing: 3 });
  const [digest] = stored.keys();
  if (digest === undefined) throw new Error('no block');
  await cache.store.get({ digest, blockBytes: BLOCK, neighbourhood: 0 }, { rank: RANK.demand });
  expect(await count([first, second, first])).toEqual({ blocks: 3, missing: 1 });
  const { missing } = await findMissing(new LocalFileSystem(), list, cache.reader);
  expect(missing).toEqual(second);
  // More than one turn, with the one that is there at its very end.
  expect(await count([...blocks, first])).toEqual({ blocks: 9_001, missing: 9_000 });
  await cache.close();
});

test('a list that is not there, or is cut, is refused', async () => {
  await using temporary = await temporaryFolder();
  const list = path.join(temporary.folder, 'list');
  const nothing = { find: () => -1 };
  await expect(findMissing(new LocalFileSystem(), list, nothing)).rejects.toMatchObject({ code: 'not-found' });
  await writeFile(list, Buffer.alloc(33));
  await expect(findMissing(new LocalFileSystem(), list, nothing)).rejects.toMatchObject({ code: 'malformed' });
});
