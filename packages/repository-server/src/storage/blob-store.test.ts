import { mkdtemp, readdir, rm, stat, writeFile, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodeChunk, sha256 } from '@collective/shared';
import { describe, expect, test } from 'vitest';
import { blobStoreContract } from '../testing/blob-store-contract.js';
import { MemoryBlobStore } from '../testing/memory-blob-store.js';
import { HEADS, keysName, manifestName, trustName } from './blob-names.js';
import { ChunkMemory } from './chunk-memory.js';
import { FolderBlobStore } from './folder-blob-store.js';

const temporary = async (): Promise<{ folder: string; end: () => Promise<void> }> => {
  const folder = await mkdtemp(join(tmpdir(), 'blob-store-'));
  return { folder, end: () => rm(folder, { recursive: true, force: true }) };
};

blobStoreContract('the memory double', async () => ({ store: new MemoryBlobStore(), end: async () => undefined }));
blobStoreContract('a folder', async () => {
  const { folder, end } = await temporary();
  return { store: await FolderBlobStore.open(folder), end };
});
blobStoreContract('chunk memory', async () => ({
  store: new ChunkMemory(new MemoryBlobStore(), { bytesMax: 4_096 }),
  end: async () => undefined,
}));

describe('a folder as a blob store', () => {
  test('leaves nothing in tmp, and a temp file of a crash is removed at the next start', async () => {
    const { folder, end } = await temporary();
    const store = await FolderBlobStore.open(folder);
    await store.replace(HEADS, Buffer.from('x'));
    await store.create(trustName(1), Buffer.from('x'));
    await store.create(trustName(1), Buffer.from('y'));
    expect(await readdir(join(folder, 'tmp'))).toEqual([]);
    await writeFile(join(folder, 'tmp', 'left-behind'), 'x');
    expect(await store.emptyTempFolder()).toBe(1);
    expect(await readdir(join(folder, 'tmp'))).toEqual([]);
    await end();
  });
  test('lies as the format document says, closed where it holds what is private', async () => {
    const { folder, end } = await temporary();
    const store = await FolderBlobStore.open(folder);
    const block = Buffer.from('block');
    await store.storeChunks([{ digest: sha256(block), chunk: encodeChunk(block) }]);
    await stat(join(folder, 'chunks', sha256(block).slice(0, 2), sha256(block)));
    expect((await stat(join(folder, 'tmp'))).mode & 0o777).toBe(0o700);
    expect((await stat(join(folder, 'users'))).mode & 0o777).toBe(0o700);
    await end();
  });
  test('names what is no chunk in the chunk folders, and does not serve or list it', async () => {
    const { folder, end } = await temporary();
    const store = await FolderBlobStore.open(folder);
    const wrongFolder = sha256(Buffer.from('x'));
    const other = wrongFolder.startsWith('00') ? '01' : '00';
    await writeFile(join(folder, 'chunks', other, wrongFolder), 'x');
    await writeFile(join(folder, 'chunks', other, 'notes.txt'), 'x');
    await mkdir(join(folder, 'chunks', 'zz'));
    expect((await store.listStrayChunkFiles()).sort()).toEqual(
      [`chunks/${other}/${wrongFolder}`, `chunks/${other}/notes.txt`, 'chunks/zz'].sort(),
    );
    expect(await store.readChunk(wrongFolder)).toBeUndefined();
    for await (const chunk of store.listChunks()) expect(chunk).toBeUndefined();
    await end();
  });
  test('a folder that cannot be written to gives a typed error and no file', async () => {
    const { folder, end } = await temporary();
    const store = await FolderBlobStore.open(folder);
    await rm(join(folder, 'tmp'), { recursive: true });
    await expect(store.replace(HEADS, Buffer.from('x'))).rejects.toMatchObject({ code: 'local-io' });
    await expect(store.create(trustName(1), Buffer.from('x'))).rejects.toMatchObject({ code: 'local-io' });
    expect(await store.read(HEADS)).toBeUndefined();
    await end();
  });
  test('takes no chunks when the disk would be too full afterwards, but still manifests and heads', async () => {
    const { folder, end } = await temporary();
    const store = await FolderBlobStore.open(folder, { freeBytesMin: Number.MAX_SAFE_INTEGER });
    const block = Buffer.from('block');
    const chunk = { digest: sha256(block), chunk: encodeChunk(block) };
    await expect(store.storeChunks([chunk])).rejects.toMatchObject({ code: 'disk-full' });
    expect(await store.readChunk(chunk.digest)).toBeUndefined();
    await store.replace(HEADS, Buffer.from('x'));
    await end();
  });
});

describe('chunk memory', () => {
  test('reads a chunk once below, keeps within its bytes, and forgets the least used', async () => {
    const below = new MemoryBlobStore();
    let reads = 0;
    const counting = Object.assign(Object.create(below) as MemoryBlobStore, {
      readChunk: (digest: Parameters<MemoryBlobStore['readChunk']>[0]) => {
        reads += 1;
        return below.readChunk(digest);
      },
    });
    const chunks = Array.from({ length: 40 }, (_, index) => {
      const block = Buffer.alloc(1_000, index + 1);
      return { digest: sha256(block), chunk: encodeChunk(block) };
    });
    await below.storeChunks(chunks);
    const memory = new ChunkMemory(counting, { bytesMax: 10 * 400 });
    const [hot] = chunks;
    for (const { digest } of chunks) {
      await memory.readChunk(hot?.digest ?? digest);
      await memory.readChunk(digest);
    }
    expect(reads).toBe(40);
    for (const { digest } of chunks.slice(1, 20)) await memory.readChunk(digest);
    expect(reads).toBe(59);
  });
});

describe('blob names', () => {
  test('are made of checked parts only', () => {
    for (const bad of ['../x', 'a/b', '', 'A', '.', 'a'.repeat(64)]) {
      expect(() => manifestName(bad, 1)).toThrow(/name/);
      expect(() => keysName(bad)).toThrow(/name/);
    }
    for (const bad of [0, -1, 1.5, Number.NaN, 2 ** 60]) expect(() => trustName(bad)).toThrow(/number/);
  });
});
