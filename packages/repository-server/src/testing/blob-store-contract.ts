/** What every blob store must do; run against the folder, the memory double and the decorators. */
import { encodeChunk, type Digest, sha256 } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  applianceFolder,
  APPLIANCES_FOLDER,
  HEADS,
  manifestName,
  snapshotDataName,
  trustName,
  uploadName,
} from '../storage/blob-names.js';
import { type BlobStore, type ChunkListing } from '../storage/blob-store.js';

const chunkOf = (text: string): { readonly digest: Digest; readonly chunk: Buffer } => {
  const block = Buffer.from(text);
  return { digest: sha256(block), chunk: encodeChunk(block) };
};
const ALICE = { account: 'alice', subscription: '1'.repeat(32) };
const all = async (store: BlobStore): Promise<ChunkListing[]> => {
  const found: ChunkListing[] = [];
  for await (const chunk of store.listChunks()) found.push(chunk);
  return found;
};

export const blobStoreContract = (
  name: string,
  make: () => Promise<{ readonly store: BlobStore; readonly end: () => Promise<void> }>,
): void => {
  describe(`${name} as a blob store`, () => {
    let store: BlobStore;
    let end: () => Promise<void>;
    beforeEach(async () => {
      ({ store, end } = await make());
    });
    afterEach(() => end());

    test('what was never written is undefined, an empty folder lists nothing', async () => {
      expect(await store.read(HEADS)).toBeUndefined();
      expect(await store.readChunk(chunkOf('a').digest)).toBeUndefined();
      expect(await store.list(APPLIANCES_FOLDER)).toEqual([]);
      expect(await all(store)).toEqual([]);
    });
    test('replace puts the newest bytes there, remove takes them away, twice is no error', async () => {
      await store.replace(HEADS, Buffer.from('one'));
      await store.replace(HEADS, Buffer.from('two'));
      expect((await store.read(HEADS))?.toString()).toBe('two');
      await store.remove(HEADS);
      await store.remove(HEADS);
      expect(await store.read(HEADS)).toBeUndefined();
    });
    test('of many racing creators exactly one wins, and its bytes are there', async () => {
      const racers = Array.from({ length: 16 }, (_, index) => Buffer.alloc(10_000, index));
      const won = await Promise.all(racers.map((bytes) => store.create(manifestName('debian', 7), bytes)));
      expect(won.filter(Boolean)).toHaveLength(1);
      expect(await store.read(manifestName('debian', 7))).toEqual(racers[won.indexOf(true)]);
    });
    test('a folder lists what is directly in it, sorted', async () => {
      await store.create(manifestName('debian', 2), Buffer.from('x'));
      await store.create(manifestName('debian', 10), Buffer.from('x'));
      await store.create(trustName(1), Buffer.from('x'));
      expect(await store.list(APPLIANCES_FOLDER)).toEqual(['debian']);
      expect(await store.list(applianceFolder('debian'))).toEqual(['10', '2']);
      expect(await store.list(manifestName('debian', 2))).toEqual([]);
    });
    test('a file that grows by parts ends behind its last one, and another part at an earlier place cuts it', async () => {
      const name = uploadName('a'.repeat(32));
      await store.writePart(name, Buffer.from('one'), 0);
      await store.writePart(name, Buffer.from('two'), 3);
      expect((await store.read(name))?.toString()).toBe('onetwo');
      await store.writePart(name, Buffer.from('X'), 3);
      expect((await store.read(name))?.toString()).toBe('oneX');
      await store.writePart(name, Buffer.alloc(0), 2);
      expect((await store.read(name))?.toString()).toBe('on');
    });
    test('an adopted file has both names; who has the one before open goes on reading it', async () => {
      const [from, to] = [uploadName('b'.repeat(32)), snapshotDataName(ALICE, 1)];
      await store.writePart(from, Buffer.from('first'), 0);
      await store.adopt(from, to);
      const open = await store.open(to);
      expect(open?.byteLength).toBe(5);
      await store.writePart(uploadName('c'.repeat(32)), Buffer.from('another'), 0);
      await store.adopt(uploadName('c'.repeat(32)), to);
      expect((await open?.read(1, 4))?.toString()).toBe('irst');
      await open?.close();
      expect((await store.read(to))?.toString()).toBe('another');
      expect((await store.read(from))?.toString()).toBe('first');
      // Again: both names are one file already.
      await store.adopt(uploadName('c'.repeat(32)), to);
      expect((await store.read(to))?.toString()).toBe('another');
    });
    test('an open file gives what is asked for and refuses to read beyond its end; there is none where nothing is', async () => {
      const name = uploadName('d'.repeat(32));
      expect(await store.open(name)).toBeUndefined();
      await store.writePart(name, Buffer.from('0123456789'), 0);
      const open = await store.open(name);
      expect((await open?.read(8, 2))?.toString()).toBe('89');
      expect((await open?.read(10, 0))?.length).toBe(0);
      await expect(open?.read(8, 3)).rejects.toMatchObject({ code: 'local-io' });
      await open?.close();
      await expect(store.adopt(uploadName('e'.repeat(32)), snapshotDataName(ALICE, 2))).rejects.toMatchObject({
        code: 'local-io',
      });
    });
    test('a batch of chunks is there as it was stored, with its size; again is no error; removed is gone', async () => {
      const chunks = Array.from({ length: 300 }, (_, index) => chunkOf(`block ${index}`));
      await store.storeChunks(chunks);
      await store.storeChunks(chunks.slice(0, 5));
      for (const { digest, chunk } of chunks) expect(await store.readChunk(digest)).toEqual(chunk);
      const sizes = new Map((await all(store)).map(({ digest, chunkBytes }) => [digest, chunkBytes]));
      expect(sizes).toEqual(new Map(chunks.map(({ digest, chunk }) => [digest, chunk.length])));
      await store.removeChunks(chunks.slice(1).map(({ digest }) => digest));
      await store.removeChunks(chunks.slice(1, 3).map(({ digest }) => digest));
      expect((await all(store)).map(({ digest }) => digest)).toEqual([chunks[0]?.digest]);
      expect(await store.readChunk(chunks[1]?.digest ?? chunkOf('').digest)).toBeUndefined();
    });
    test('a chunk that was replaced by another payload of the same block reads as the new one', async () => {
      const block = Buffer.alloc(60_000, 'compressible ');
      const digest = sha256(block);
      await store.storeChunks([{ digest, chunk: encodeChunk(block, { level: 1 }) }]);
      await store.readChunk(digest);
      const better = encodeChunk(block, { level: 19 });
      await store.storeChunks([{ digest, chunk: better }]);
      expect(await store.readChunk(digest)).toEqual(better);
    });
    test('an empty batch is no work', async () => {
      await store.storeChunks([]);
      await store.removeChunks([]);
      expect(await store.listStrayChunkFiles()).toEqual([]);
    });
  });
};
