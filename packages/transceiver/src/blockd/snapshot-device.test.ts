/** A disk whose blocks lie in two caches, read at any place and length. */
import { DIGEST_BYTES, MAP_KIND, sha256, type Digest } from '@collective/shared';
import fc from 'fast-check';
import { afterEach, expect, it } from 'vitest';
import type { OpenedBase } from './base/open-base.js';
import { ImageDevice } from './image-device.js';
import { halfOf, SnapshotDevice } from './snapshot-device.js';
import { openLocalCache, temporaryFolder } from './testing/local-cache.js';
import { patternBlock } from './testing/test-disk.js';
import { MemoryStore } from './testing/test-stores.js';

const BLOCK = 4096;
const closers: (() => PromiseLike<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const { zero, public: isPublic, private: isPrivate } = MAP_KIND;
// Runs and single ones of each kind next to each other; the last block is not whole.
const KINDS = [0, 0, 1, 2, 1, 2, 2, 2, 0, 2, 0, 1, 1, 0, 1, 2].map((kind) => [zero, isPublic, isPrivate][kind] ?? zero);
const DISK_BYTES = KINDS.length * BLOCK - 3 * 512;

const openDisk = async () => {
  const content = Buffer.alloc(DISK_BYTES);
  const stores = { [isPublic]: new Map<Digest, Buffer>(), [isPrivate]: new Map<Digest, Buffer>() };
  const digestBytes = Buffer.alloc(KINDS.length * DIGEST_BYTES);
  KINDS.forEach((kind, blockIndex) => {
    if (kind === zero) return;
    const block = patternBlock({ seed: kind, blockIndex, blockBytes: BLOCK });
    block.fill(0, Math.min(BLOCK, DISK_BYTES - blockIndex * BLOCK));
    block.copy(content, blockIndex * BLOCK);
    const digest = sha256(block);
    (kind === isPublic ? stores[isPublic] : stores[isPrivate]).set(digest, block);
    digestBytes.write(digest, blockIndex * DIGEST_BYTES, 'hex');
  });
  const kinds = Uint8Array.from(KINDS);
  const shape = { diskBytes: DISK_BYTES, blockBytes: BLOCK, blockCount: KINDS.length };
  const base = { digest: sha256(content), ...shape, kinds, digestBytes } as OpenedBase; // the file is of no interest here
  const halves = { public: new MemoryStore(stores[isPublic]), private: new MemoryStore(stores[isPrivate]) };
  const imageOf = async (half: 'public' | 'private'): Promise<ImageDevice> => {
    const temporary = await temporaryFolder();
    closers.push(() => temporary[Symbol.asyncDispose]());
    const cache = await openLocalCache(temporary.folder, halves[half], { blockBytes: BLOCK });
    closers.push(cache.close);
    return new ImageDevice(halfOf(base, half), cache.store, { name: half, waitMs: 5_000, readahead: false });
  };
  const images = { public: await imageOf('public'), private: await imageOf('private') };
  const device = new SnapshotDevice(base, images);
  closers.push(() => device.close());
  return { device, content, halves, images };
};

it('reads what the disk holds at any place and length, each block from its own half, cold and from the caches', async () => {
  const { device, content, halves } = await openDisk();
  const places = fc.tuple(fc.nat({ max: DISK_BYTES - 1 }), fc.integer({ min: 1, max: 9 * BLOCK }));
  await fc.assert(
    fc.asyncProperty(places, async ([byteOffset, wanted]) => {
      const target = Buffer.alloc(Math.min(wanted, DISK_BYTES - byteOffset), 0xcc);
      if (!device.tryRead(target, byteOffset)) await device.read(target, byteOffset);
      expect(target.equals(content.subarray(byteOffset, byteOffset + target.length))).toBe(true);
    }),
  );
  const whole = Buffer.alloc(DISK_BYTES);
  await device.read(whole, 0);
  expect(whole.equals(content)).toBe(true);
  expect(device.tryRead(whole.fill(0xcc), 0)).toBe(true);
  expect(whole.equals(content)).toBe(true);
  expect([halves.public.asked.length, halves.private.asked.length]).toEqual([5, 6]);
});

it('says where holes are, merged over the halves', async () => {
  const { device } = await openDisk();
  const data = KINDS.map((kind) => kind !== zero);
  const extents = device.extents(0, DISK_BYTES);
  expect(extents.reduce((sum, { byteLength }) => sum + byteLength, 0)).toBe(DISK_BYTES);
  let at = 0;
  extents.forEach(({ kind, byteLength }, index) => {
    expect(kind).not.toBe(extents[index - 1]?.kind);
    for (let block = at / BLOCK; block * BLOCK < at + byteLength; block += 1) expect(data[block]).toBe(kind === 'data');
    at += byteLength;
  });
  expect(device.extents(2 * BLOCK + 512, 3 * BLOCK)).toEqual([{ kind: 'data', byteLength: 3 * BLOCK }]);
});

it('warms both halves, fetches a block by its kind, and takes no writes', async () => {
  const { device, halves } = await openDisk();
  await device.imageOf(3).fetch(3);
  expect([halves.public.asked.length, halves.private.asked.length]).toEqual([0, 1]);
  device.warm(0, DISK_BYTES);
  await expect.poll(() => [halves.public.asked.length, halves.private.asked.length]).toEqual([5, 6]);
  expect(device.tryWrite()).toBe(false);
  for (const refused of [device.write(), device.trim(), device.zero()])
    await expect(refused).rejects.toMatchObject({ code: 'read-only' });
});
