/**
 * A commit late in a long history. Seen: one was not answered for minutes. Each page that lay deep in the list of objects
 * was searched through all of them, 64 were kept open, and so each search opened all of them again; and a snapshot that left
 * one object out had every block of the disk looked for in that way, and read. Counted here, because seconds say little.
 */
import { encodeChunk } from '@collective/shared';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type BlobStore } from '../storage/blob-store.js';
import { MemoryBlobStore } from '../testing/memory-blob-store.js';
import { privateChunkOf, type StoredRecord, TestBackup, type UserPlan, userMapOf } from '../testing/test-backup.js';
import { openSubscriber, type Subscriber } from '../testing/test-subscriber.js';

const LEAVES = 80;
const FANOUT = 128;
/** Leaves are written once, one after the other; then only the first one. */
const SNAPSHOTS = 110;
const HISTORY_MS_MAX = 60_000;

const counts = { opens: 0, readBytes: 0 };
let world: Subscriber;
let backup: TestBackup;
let plan: UserPlan[number][];
let seed = 0;
const write = (leaf: number): void => void (plan[leaf * FANOUT] = seed += 1);

beforeAll(async () => {
  const blobStore: BlobStore = new MemoryBlobStore();
  const open = blobStore.open.bind(blobStore);
  blobStore.open = async (name) => {
    counts.opens += 1;
    const file = await open(name);
    if (file === undefined) return undefined;
    const read = (byteOffset: number, byteLength: number): Promise<Buffer> => {
      counts.readBytes += byteLength;
      return file.read(byteOffset, byteLength);
    };
    return { ...file, read };
  };
  world = await openSubscriber({ blobStore });
  backup = new TestBackup(world.server, world.person, {
    subscription: '7'.repeat(32),
    writtenBy: world.version,
    base: null,
  });
  await backup.create();
  await backup.take();
  plan = Array.from({ length: LEAVES * FANOUT }, () => 0);
  for (let number = 0; number < SNAPSHOTS; number += 1) {
    write(number < LEAVES ? number : 0);
    await backup.save({ plan: [...plan] });
  }
}, HISTORY_MS_MAX);
afterAll(() => world.server.close());

const pagesOf = (of: UserPlan): StoredRecord[] =>
  [...userMapOf(of).build().pages].map(([digest, page]) => ({ digest, chunk: encodeChunk(page) }));

const countsOf = async (work: () => Promise<unknown>): Promise<typeof counts> => {
  Object.assign(counts, { opens: 0, readBytes: 0 });
  await work();
  return { ...counts };
};

test('looks into each object once, however many old pages have changed, and reads no index again the next time', async () => {
  const commit = async (first: number): Promise<typeof counts> => {
    for (let leaf = first; leaf < first + 20; leaf += 1) write(leaf);
    return countsOf(() => backup.save({ plan: [...plan] }));
  };
  // 20 old pages, each in an object of its own, and the new one three times: verified, searched, given its name.
  const cold = await commit(10);
  expect(cold.opens).toBeLessThan(SNAPSHOTS + 20 + 10);
  const warm = await commit(40);
  expect(warm.opens).toBeLessThan(SNAPSHOTS + 20 + 10);
  expect(warm.readBytes).toBeLessThan(200_000);
});

test('that leaves objects out looks for all blocks at once, and reads pages but no data', async () => {
  // Those that wrote the first leaf: nothing in them is named any more but the newest.
  const left = backup.objects.filter((number) => number > 1 && (number <= LEAVES || number >= SNAPSHOTS));
  write(5);
  const made = backup.make({ plan: [...plan], objects: left });
  const whole = await countsOf(async () => {
    const { reply } = await backup.upload(made);
    expect(reply.status).toBe(201);
  });
  expect(whole.opens).toBeLessThan(3 * SNAPSHOTS);
  expect(whole.readBytes).toBeLessThan(400_000);
});

test('that leaves out an object of which one block is still named is refused and says which', async () => {
  const lost = privateChunkOf(Number(plan[70 * FANOUT]));
  const made = backup.make({ plan: [...plan], objects: backup.objects.filter((number) => number !== 71) });
  const { reply } = await backup.upload(made);
  // Its page is missed first: it is in the same object.
  expect([reply.status, reply.json()['code']]).toEqual([404, 'block-missing']);
  // The page is sent again, as by a device that believes that only the page was lost.
  const pageToo = backup.make({
    plan: [...plan],
    objects: backup.objects.filter((number) => number !== 71),
    records: () => pagesOf(plan),
  });
  const refused = await backup.upload(pageToo);
  expect([refused.reply.status, refused.reply.json()]).toMatchObject([
    404,
    { code: 'block-missing', data: { digest: lost.digest } },
  ]);
});
