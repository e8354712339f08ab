/**
 * The cache as a whole, over real files: what is filled is found again after reopening, and whatever happens to the files
 * behind its back, nothing but the right bytes or a fetch comes out.
 */
import { open, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Digest } from '@collective/shared';
import { RANK } from '../block-store.js';
import { syscalls } from '../syscalls.js';
import { openLocalCache, temporaryFolder, type LocalCache } from '../testing/local-cache.js';
import { testDisk } from '../testing/test-disk.js';
import { MemoryStore, requestFor } from '../testing/test-stores.js';
import { RECORD_BYTES } from './slot-arrays.js';
import { putDigestWords } from './slot-index.js';
import { TABLE_HEADER_BYTES } from './slot-table.js';

const BLOCK = 65_536;
const disk = testDisk({ diskBytes: 40 * BLOCK, blockBytes: BLOCK });
const digests = [...disk.blocks.keys()];
const demand = { rank: RANK.demand };

let temporary: Awaited<ReturnType<typeof temporaryFolder>>;
let below: MemoryStore;
const opened: LocalCache[] = [];

const openCache = async (options: Parameters<typeof openLocalCache>[2] = {}): Promise<LocalCache> => {
  const cache = await openLocalCache(temporary.folder, below, options);
  opened.push(cache);
  return cache;
};
const closeAll = async (): Promise<void> => {
  for (const cache of opened.splice(0)) await cache.close();
};
const readAll = async (cache: LocalCache): Promise<void> => {
  for (const digest of digests) {
    const block = await cache.store.get(requestFor(digest), demand);
    expect(block.equals(disk.blocks.get(digest) ?? Buffer.alloc(0)), digest).toBe(true);
  }
};
const dropPages = async (): Promise<void> => {
  const file = await open(`${temporary.folder}/${BLOCK}.slots`, 'r+');
  await file.datasync();
  syscalls?.advise(file.fd, 0, 0, 'drop');
  await file.close();
};
/** Changes bytes of the slots file as a failing medium would. */
const damage = async (byteOffset: number, bytes: Buffer): Promise<void> => {
  const file = await open(`${temporary.folder}/${BLOCK}.slots`, 'r+');
  await file.write(bytes, 0, bytes.length, byteOffset);
  await file.close();
};
const slotOf = (cache: LocalCache, digest: Digest): number => {
  const words = new Uint32Array(4);
  putDigestWords(digest, words, 0);
  return cache.reader.find(words, 0);
};
const tryRead = (cache: LocalCache, digest: Digest, target: Buffer, within: number): boolean => {
  const words = new Uint32Array(4);
  putDigestWords(digest, words, 0);
  return cache.reader.tryRead(cache.reader.find(words, 0), words, 0, target, within);
};

beforeEach(async () => {
  temporary = await temporaryFolder();
  below = new MemoryStore(disk.blocks);
});
afterEach(async () => {
  await closeAll();
  await temporary[Symbol.asyncDispose]();
});

describe.each([
  ['with NOWAIT reads', syscalls !== undefined],
  ['without NOWAIT reads', false],
])('cache %s', (_, useNowait) => {
  it('fetches each block once and serves it from its slot afterwards', async () => {
    const cache = await openCache({ useNowait });
    await readAll(cache);
    await readAll(cache);
    expect(below.asked.length).toBe(digests.length);
  });

  it('serves the same blocks after reopening, each checked once against its digest', async () => {
    await readAll(await openCache({ useNowait }));
    await closeAll();
    const cache = await openCache({ useNowait });
    await readAll(cache);
    expect(below.asked.length).toBe(digests.length);
    expect(cache.reader.counters.verified).toBe(digests.length);
    await readAll(cache);
    expect(cache.reader.counters.verified).toBe(digests.length);
  });

  it('reads parts of a block without waiting once it is in memory and checked', async () => {
    const cache = await openCache({ useNowait });
    const digest = digests[5] ?? ('' as Digest);
    await cache.store.get(requestFor(digest), demand);
    await cache.store.get(requestFor(digest), demand);
    for (const [within, byteLength] of [
      [0, 4096],
      [4096, 512],
      [1000, 5000],
      [65_535, 1],
      [0, 65_536],
    ] as const) {
      const target = Buffer.alloc(byteLength);
      expect(tryRead(cache, digest, target, within), `${byteLength} at ${within}`).toBe(true);
      expect(target.equals(disk.blocks.get(digest)?.subarray(within, within + byteLength) ?? Buffer.alloc(0))).toBe(
        true,
      );
    }
  });

  it('finds a flipped bit that comes from the medium, counts it and fetches the block again', async () => {
    await readAll(await openCache({ useNowait }));
    await closeAll();
    await damage(7 * BLOCK + 12_345, Buffer.from([0xff, 0x55]));
    await dropPages();
    const cache = await openCache({ useNowait });
    await readAll(cache);
    expect(cache.reader.counters.damaged).toBe(1);
    expect(below.asked.length).toBe(digests.length + 1);
    await readAll(cache);
    expect(below.asked.length).toBe(digests.length + 1);
  });

  it('finds damage that happens to a slot while it is in use, after its pages were dropped', async () => {
    const cache = await openCache({ useNowait });
    const digest = digests[3] ?? ('' as Digest);
    await cache.store.get(requestFor(digest), demand);
    await cache.store.get(requestFor(digest), demand);
    expect(tryRead(cache, digest, Buffer.alloc(4096), 8192)).toBe(true);
    await damage(slotOf(cache, digest) * BLOCK + 8192, Buffer.alloc(4096, 0xee));
    await dropPages();
    // The first refused read brings the page in. It must not be served by the next one, unchecked as it is.
    for (let turn = 0; turn < 100; turn += 1) {
      expect(tryRead(cache, digest, Buffer.alloc(4096), 8192)).toBe(false);
      await new Promise((resolve) => setImmediate(resolve));
    }
    const block = await cache.store.get(requestFor(digest), demand);
    expect(block.equals(disk.blocks.get(digest) ?? Buffer.alloc(0))).toBe(true);
    expect(cache.reader.counters.damaged).toBe(1);
  });

  it('serves nothing wrong when slots were swapped', async () => {
    await readAll(await openCache({ useNowait }));
    await closeAll();
    const file = await readFile(`${temporary.folder}/${BLOCK}.slots`);
    await damage(0, file.subarray(BLOCK, 2 * BLOCK));
    await damage(BLOCK, file.subarray(0, BLOCK));
    const cache = await openCache({ useNowait });
    await readAll(cache);
    expect(cache.reader.counters.damaged).toBe(2);
  });

  it.each([
    [
      'the slots file is cut in the middle of a block',
      async () => truncate(`${temporary.folder}/${BLOCK}.slots`, 9 * BLOCK + 100),
    ],
    ['the slots file is gone', async () => truncate(`${temporary.folder}/${BLOCK}.slots`, 0)],
    [
      'the table is cut in the middle of a record',
      async () => truncate(`${temporary.folder}/${BLOCK}.table`, TABLE_HEADER_BYTES + 5 * RECORD_BYTES + 7),
    ],
    ['the table is gone', async () => truncate(`${temporary.folder}/${BLOCK}.table`, 0)],
    [
      'the table is of another program',
      async () => writeFile(`${temporary.folder}/${BLOCK}.table`, Buffer.alloc(10_000, 0x41)),
    ],
    [
      'every byte of the table has a flipped bit',
      async () => {
        const table = await readFile(`${temporary.folder}/${BLOCK}.table`);
        await writeFile(
          `${temporary.folder}/${BLOCK}.table`,
          table.map((byte, at) => (at < TABLE_HEADER_BYTES ? byte : byte ^ 16)),
        );
      },
    ],
    [
      'the records of the table have changed places',
      async () => {
        const table = await readFile(`${temporary.folder}/${BLOCK}.table`);
        const records = table.subarray(TABLE_HEADER_BYTES);
        const turned = Buffer.concat([
          table.subarray(0, TABLE_HEADER_BYTES),
          records.subarray(RECORD_BYTES),
          records.subarray(0, RECORD_BYTES),
        ]);
        await writeFile(`${temporary.folder}/${BLOCK}.table`, turned);
      },
    ],
    [
      'the table has one record twice',
      async () => {
        const table = await readFile(`${temporary.folder}/${BLOCK}.table`);
        table.copy(table, TABLE_HEADER_BYTES + RECORD_BYTES, TABLE_HEADER_BYTES, TABLE_HEADER_BYTES + RECORD_BYTES);
        await writeFile(`${temporary.folder}/${BLOCK}.table`, table);
      },
    ],
  ])('serves the right bytes when %s', async (__, harm) => {
    await readAll(await openCache({ useNowait }));
    await closeAll();
    await harm();
    const cache = await openCache({ useNowait });
    await readAll(cache);
    await readAll(cache);
    await closeAll();
    await readAll(await openCache({ useNowait }));
  });
});

describe('cache', () => {
  it('keeps its bound and serves the right bytes while it evicts', async () => {
    const cache = await openCache({ cacheBytesMax: 10 * BLOCK });
    for (let round = 0; round < 3; round += 1) await readAll(cache);
    expect(cache.writer.counters.usedBytes).toBeLessThanOrEqual(10 * BLOCK);
    expect(cache.writer.counters.evicted).toBeGreaterThan(50);
    expect((await stat(`${temporary.folder}/${BLOCK}.slots`)).size).toBeLessThanOrEqual(10 * BLOCK);
  });

  it('shares one bound between block sizes', async () => {
    const small = testDisk({ diskBytes: 1 << 20, blockBytes: 16_384, seed: 2 });
    const cache = await openCache({ cacheBytesMax: 16 * BLOCK });
    await readAll(cache);
    for (const [digest, block] of small.blocks)
      expect(await cache.writer.fill(requestFor(digest, 16_384), block)).toBe(true);
    expect(cache.writer.counters.usedBytes).toBeLessThanOrEqual(16 * BLOCK);
    const [last] = [...small.blocks.keys()].slice(-1);
    expect(cache.writer.has({ digest: last ?? ('' as Digest), blockBytes: 16_384 })).toBe(true);
    await readAll(cache);
  });

  it('gives way when the file system runs low, gives the space back, and goes on serving', async () => {
    let freeBytes = 1 << 30;
    let nowMs = 1_000_000;
    const cache = await openCache({
      reserveBytes: 20 * BLOCK,
      freeBytes: () => Promise.resolve(freeBytes),
      nowMs: () => nowMs,
    });
    await readAll(cache);
    const before = await stat(`${temporary.folder}/${BLOCK}.slots`);
    freeBytes = 5 * BLOCK; // somebody else takes the space: 15 blocks too little is left
    nowMs += 5_000;
    await cache.writer.fill(requestFor('ab'.repeat(32) as Digest), Buffer.alloc(BLOCK, 1));
    expect(cache.writer.counters.usedBytes).toBeLessThanOrEqual(digests.length * BLOCK - 14 * BLOCK);
    const after = await stat(`${temporary.folder}/${BLOCK}.slots`);
    if (syscalls !== undefined) expect((before.blocks - after.blocks) * 512).toBeGreaterThanOrEqual(13 * BLOCK);
    await readAll(cache);
  });

  it('gives way also while nothing is fetched: a guest that only writes fills the file system', async () => {
    let freeBytes = 1 << 30;
    const cache = await openCache({ reserveBytes: 20 * BLOCK, freeBytes: () => Promise.resolve(freeBytes) });
    await readAll(cache);
    const before = cache.writer.counters.usedBytes;
    freeBytes = 5 * BLOCK;
    await expect
      .poll(() => cache.writer.counters.usedBytes, { timeout: 10_000 })
      .toBeLessThanOrEqual(before - 14 * BLOCK);
  });

  it('serves from memory when it may hold nothing at all', async () => {
    const cache = await openCache({ reserveBytes: 1 << 30, freeBytes: () => Promise.resolve(0) });
    await readAll(cache);
    await readAll(cache);
    expect(cache.writer.counters.usedBytes).toBe(0);
    expect(cache.writer.counters.unfilled).toBe(below.asked.length);
    // A guest reads a block in pieces: they come from memory.
    expect(below.asked.length).toBe(digests.length);
  });

  it('survives the loss of its last table writes: what is not in the table is fetched again', async () => {
    const cache = await openCache();
    await readAll(cache);
    const table = await readFile(`${temporary.folder}/${BLOCK}.table`);
    await closeAll();
    await writeFile(`${temporary.folder}/${BLOCK}.table`, table); // as after kill -9 before the delayed write
    await readAll(await openCache());
  });

  it('cuts a file that is longer than its bound allows', async () => {
    await readAll(await openCache());
    await closeAll();
    const cache = await openCache({ cacheBytesMax: 8 * BLOCK });
    expect((await stat(`${temporary.folder}/${BLOCK}.slots`)).size).toBeLessThanOrEqual(8 * BLOCK);
    await readAll(cache);
  });

  it('asks for a block once when sixteen readers want it at the same time', async () => {
    const cache = await openCache();
    await readAll(cache);
    await closeAll();
    const again = await openCache();
    const digest = digests[0] ?? ('' as Digest);
    const blocks = await Promise.all(Array.from({ length: 16 }, () => again.store.get(requestFor(digest), demand)));
    expect(blocks.every((block) => block.equals(disk.blocks.get(digest) ?? Buffer.alloc(0)))).toBe(true);
    expect(again.reader.counters.verified).toBe(1);
  });

  it('pins blocks against eviction, and lets them go when unpinned', async () => {
    const cache = await openCache({ cacheBytesMax: 8 * BLOCK });
    const first = digests[0] ?? ('' as Digest);
    await cache.store.get(requestFor(first), demand);
    const file = await cache.writer.file(BLOCK);
    expect(file.setPinned(first, true)).toBe(true);
    await readAll(cache);
    expect(file.has(first)).toBe(true);
    await closeAll();
    const again = await openCache({ cacheBytesMax: 8 * BLOCK });
    const reopened = await again.writer.file(BLOCK);
    await readAll(again);
    while (reopened.evict(8) > 0);
    expect(reopened.has(first)).toBe(true);
    reopened.setPinned(first, false);
    while (reopened.evict(8) > 0);
    expect(reopened.has(first)).toBe(false);
  });
});
