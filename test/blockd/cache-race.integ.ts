/**
 * The serving and the fetching thread, for real, on a cache that is far too small: every read races with a slot that is
 * being given other content. Nothing but the right bytes may come out.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import {
  CachedStore,
  FetchThread,
  ImageDevice,
  LocalFileSystem,
  SlotReader,
  TestRepository,
  slotFileName,
  testDisk,
} from '@collective/transceiver';
import { ROOT } from '../support/paths.js';

const BLOCK = 16_384;
const WORKER = new URL(`file://${path.join(ROOT, 'packages/transceiver/dist/blockd/fetch/fetch-worker.js')}`);

it.each([
  ['synchronous and waiting reads', {}],
  ['waiting reads of whole slots only', { useNowait: false }],
])('serves the right bytes with %s while slots are rewritten all the time', async (_, readerOptions) => {
  const disk = testDisk({ diskBytes: 400 * BLOCK, blockBytes: BLOCK });
  await using repository = await TestRepository.open(disk.chunks);
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-race-'));
  const fetcher = new FetchThread(
    {
      cacheFolder: folder,
      cache: { cacheBytesMax: 40 * BLOCK, reserveBytes: 0 },
      repository: { origin: repository.origin },
    },
    { onDeath: (error) => expect.unreachable(`the fetching thread died: ${error.message}`) },
    WORKER,
  );
  const store = new CachedStore(fetcher);
  const memory = await fetcher.openSlotFile(BLOCK);
  const file = await new LocalFileSystem().open(path.join(folder, slotFileName(BLOCK)), 'read');
  store.addReader(new SlotReader(memory, file, readerOptions));
  const device = new ImageDevice(disk.map, store, { name: 'race', waitMs: 30_000 });

  let random = 11;
  const next = (below: number): number => (random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0) % below;
  let synchronous = 0;
  const check = (target: Buffer, byteOffset: number): void => {
    if (!target.equals(disk.bytes.subarray(byteOffset, byteOffset + target.length)))
      expect.unreachable(`wrong bytes at ${byteOffset}`);
  };
  const readLoop = async (): Promise<void> => {
    const target = Buffer.alloc(4096);
    for (let read = 0; read < 600; read += 1) {
      // Four places are hot, the rest keeps the evictor busy.
      const block = next(3) === 0 ? next(400) : next(4) * 90;
      const byteOffset = block * BLOCK + next(4) * 4096;
      if (device.tryRead(target, byteOffset)) synchronous += 1;
      else await device.read(target, byteOffset);
      check(target, byteOffset);
    }
  };
  // Between the turns of the others: as many synchronous reads as there is time for.
  let isOver = false;
  const hammer = async (): Promise<void> => {
    const target = Buffer.alloc(4096);
    while (!isOver) {
      for (let read = 0; read < 300; read += 1) {
        const byteOffset = next(400) * BLOCK + next(4) * 4096;
        if (device.tryRead(target, byteOffset)) check(target, byteOffset);
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  try {
    const hammering = hammer();
    await Promise.all(Array.from({ length: 12 }, readLoop));
    isOver = true;
    await hammering;
    const { cache } = await fetcher.status();
    expect(cache.evicted).toBeGreaterThan(500);
    expect(synchronous).toBeGreaterThan(100);
    expect([...store.readers].map((reader) => reader.counters.damaged)).toEqual([0]);
  } finally {
    await device.close();
    await fetcher.close();
    await store.close();
    await rm(folder, { recursive: true });
  }
});
