/** A local disk that refuses costs fetches and is counted; it fails no read and keeps no block daemon from starting. */
import { truncate } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { CollectiveError } from '@collective/shared';
import type { RandomFile } from '../../storage/file-system.js';
import { FaultyFileSystem } from '../../storage/faulty-file-system.double.js';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { temporaryFolder } from '../testing/local-cache.js';
import { testDisk } from '../testing/test-disk.js';
import { requestFor } from '../testing/test-stores.js';
import { CacheWriter } from './cache-writer.js';

const BLOCK = 65_536;
const disk = testDisk({ diskBytes: 8 * BLOCK, blockBytes: BLOCK, noZeroes: true });
const blocks = [...disk.blocks];
const [first, second] = blocks;

let temporary: Awaited<ReturnType<typeof temporaryFolder>>;
let fileSystem: FaultyFileSystem;
let writer: CacheWriter | undefined;

const openWriter = async (): Promise<CacheWriter> => {
  writer = await CacheWriter.open(fileSystem, temporary.folder, { cacheBytesMax: 64 * BLOCK, reserveBytes: 0 });
  return writer;
};
const fillAll = async (cache: CacheWriter, which = blocks): Promise<boolean[]> => {
  const results: boolean[] = [];
  for (const [digest, block] of which) results.push(await cache.fill(requestFor(digest), block));
  return results;
};

beforeEach(async () => {
  temporary = await temporaryFolder();
  fileSystem = new FaultyFileSystem();
});
afterEach(async () => {
  fileSystem.fault = undefined;
  await writer?.close();
  await temporary[Symbol.asyncDispose]();
});

it('a table that cannot be read is begun anew', async () => {
  await fillAll(await openWriter());
  await writer?.close();
  fileSystem.fault = { pathEnd: '.table', call: 'read', code: 'local-io' };
  const cache = await openWriter();
  expect(cache.counters.usedBytes).toBe(0);
  expect(cache.faults).toEqual({ 'cache-table-unusable': 1 });
  expect(await fillAll(cache)).not.toContain(false);
});

it('a table whose header found no space is written when there is some again', async () => {
  fileSystem.fault = { pathEnd: '.table', call: 'write', code: 'disk-full' };
  const cache = await openWriter();
  expect(await fillAll(cache)).not.toContain(false);
  await expect((await cache.file(BLOCK)).writeTable()).rejects.toMatchObject({ code: 'disk-full' });
  fileSystem.fault = undefined;
  await (await cache.file(BLOCK)).writeTable();
  await cache.close();
  expect((await openWriter()).counters.usedBytes).toBe(8 * BLOCK);
});

it('blocks that the disk does not take are counted by why, and their slots are free again', async () => {
  const cache = await openWriter();
  fileSystem.fault = { pathEnd: '.slots', call: 'write', code: 'local-io' };
  expect(await fillAll(cache)).not.toContain(true);
  expect(cache.faults).toEqual({ 'cache-write-failed': 8 });
  fileSystem.fault = { pathEnd: '.slots', call: 'write', code: 'disk-full' };
  if (first !== undefined) await fillAll(cache, [first]);
  expect(cache.faults).toEqual({ 'cache-write-failed': 8, 'cache-disk-full': 1 });
  expect(cache.counters.usedBytes).toBe(0);
  fileSystem.fault = undefined;
  expect(await fillAll(cache)).not.toContain(false);
});

it('a slot file that is cut in use is noticed at the next fill, and no slot is trusted any more', async () => {
  const cache = await openWriter();
  await fillAll(cache, blocks.slice(0, 6));
  const { memory } = await cache.file(BLOCK);
  const marked = (): number => new Int32Array(memory.states).filter((word) => (word & 1) !== 0).length;
  expect(marked()).toBe(6);
  await truncate(`${temporary.folder}/${BLOCK}.slots`, 2 * BLOCK + 1000);
  if (second !== undefined) await fillAll(cache, blocks.slice(6, 7));
  expect(cache.faults).toEqual({ 'cache-file-cut': 1 });
  expect(marked()).toBe(1); // the one that was written after the cut
});

/** What was seen: each try to open a cache file whose table the disk refused left a descriptor open, until there were none for anybody. */
it('a cache file that cannot be opened leaves nothing open, and is there when the disk lets it', async () => {
  const open = new Set<RandomFile>();
  let isRefused = true;
  const refusing = new (class extends LocalFileSystem {
    override async open(path: string, mode: 'read' | 'write' | 'create'): Promise<RandomFile> {
      if (isRefused && path.endsWith('.table')) throw new CollectiveError('disk-full', path);
      const file = await super.open(path, mode);
      open.add(file);
      const close = file.close.bind(file);
      file.close = async () => {
        open.delete(file);
        await close();
      };
      return file;
    }
  })();
  const cache = await CacheWriter.open(refusing, temporary.folder, { cacheBytesMax: 64 * BLOCK, reserveBytes: 0 });
  expect(await fillAll(cache, blocks.slice(0, 3))).toEqual([false, false, false]);
  expect(open.size).toBe(0);
  isRefused = false;
  expect(await fillAll(cache)).not.toContain(false);
  await cache.close();
  expect(open.size).toBe(0);
});
