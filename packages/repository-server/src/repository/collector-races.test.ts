/**
 * The collector beside uploads, commits and crashes: each test stops at the one call at which a chunk would be lost, were
 * the protection of that moment not there (docs/adr/0011).
 */
import { type Digest, sha256 } from '@collective/shared';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { MemoryCatalogue } from '../testing/memory-catalogue.js';
import { chunkOf, manifestOf, signManifest, TestPublisher } from '../testing/test-publisher.js';
import { type TestPerson, TestRepository } from '../testing/test-repository.js';
import { checkRepository } from './check-repository.js';
import { collectGarbage } from './collector.js';
import { assembleRepository } from './repository.js';

let server: TestRepository;
let alice: TestPerson;
let publisher: TestPublisher;
beforeEach(async () => {
  server = await TestRepository.open();
  alice = await server.join('alice', 'publisher');
  await server.allow(alice, 'debian');
  publisher = new TestPublisher(server, alice);
});
afterEach(() => server.close());

const collect = () => collectGarbage(server.repository, { graceSeconds: 0 });
const problems = async () => (await checkRepository(server.repository)).problems;
const isThere = async (seed: number): Promise<boolean> =>
  (await server.repository.blobStore.readChunk(chunkOf(seed).digest)) !== undefined;
const codeOf = ({ status, json }: { readonly status: number; json(): Record<string, unknown> }) => [
  status,
  json()['code'],
];

type Signal = { readonly given: Promise<void>; give(): void };
const newSignal = (): Signal => {
  let give = (): void => undefined;
  const given = new Promise<void>((resolve) => (give = resolve));
  return { given, give };
};

/** The next caller of the lock, before it asks for it, waits for `step`. */
const beforeNextLock = (step: () => Promise<void>): void => {
  const { catalogue } = server.repository;
  const real = catalogue.exclusively.bind(catalogue);
  catalogue.exclusively = async (locked) => {
    catalogue.exclusively = real;
    await step();
    return real(locked);
  };
};
/** The next caller that asks which chunks live, after it was answered, waits for `step`. */
const afterNextLiveChunks = (step: () => Promise<void>): void => {
  const { versions } = server.repository.catalogue;
  const real = versions.liveChunks;
  versions.liveChunks = async (...asked) => {
    versions.liveChunks = real;
    const answer = await real(...asked);
    await step();
    return answer;
  };
};

/** A chunk file that nothing names, older than every session that begins from now on. */
const leaveGarbage = async (seed: number): Promise<void> => {
  const upload = await publisher.openUpload('debian', null);
  await publisher.sendChunks(upload, [seed]);
  await server.request('abandonUpload', { token: alice.token, params: { upload } });
  server.clock.advance(10);
};
const firstVersion = (plan: readonly number[]): Buffer =>
  signManifest(manifestOf({ appliance: 'debian', version: 1, parent: null, plan }), alice.publishing);

/** Versions 1 and 2; block 11 lives in version 1 alone, which is deleted. A session for version 3 counts on it. */
const prepareThird = async (): Promise<{ upload: string; file: Buffer; plan: readonly number[] }> => {
  let parent: { version: number; manifest: Digest } | null = null;
  for (const version of [1, 2]) {
    const { reply, file } = await publisher.publish({ appliance: 'debian', version, parent, plan: [1, 10 + version] });
    expect(reply.status).toBe(201);
    parent = { version, manifest: sha256(file) };
  }
  server.clock.advance(1);
  const params = { name: 'debian', version: 1 };
  expect((await server.request('deleteVersion', { token: alice.token, params })).status).toBe(200);
  // Not version 1's page, which goes with it.
  const plan = [1, 11, 0, 1];
  const upload = await publisher.openUpload('debian', 2);
  expect(await publisher.lacking(upload, [chunkOf(11).digest])).toEqual([]);
  expect((await publisher.sendDisk(upload, plan)).status).toBe(200);
  const file = signManifest(manifestOf({ appliance: 'debian', version: 3, parent, plan }), alice.publishing);
  return { upload, file, plan };
};
const expectRefusedThenTaken = async (
  { upload, file, plan }: Awaited<ReturnType<typeof prepareThird>>,
  refused: readonly unknown[],
): Promise<void> => {
  expect([refused, await isThere(11)]).toEqual([[404, 'block-missing'], false]);
  expect((await server.repository.catalogue.versions.head('debian'))?.version).toBe(2);
  await publisher.sendChunks(upload, [11]);
  await publisher.sendDisk(upload, plan);
  expect((await publisher.commit(upload, file)).status).toBe(201);
  expect(await problems()).toEqual([]);
};

test('garbage that is stored again: the collector leaves it between its getting the name and its belonging to the session', async () => {
  await leaveGarbage(1);
  const { blobStore } = server.repository;
  const stored = newSignal();
  const goOn = newSignal();
  const store = blobStore.storeChunks.bind(blobStore);
  let upload = '';
  let sending: ReturnType<TestPublisher['sendChunks']> | undefined;
  beforeNextLock(async () => {
    // The collector has its plan and is about to delete.
    upload = await publisher.openUpload('debian', null);
    blobStore.storeChunks = async (chunks) => {
      blobStore.storeChunks = store;
      await store(chunks);
      stored.give();
      await goOn.given;
    };
    sending = publisher.sendChunks(upload, [1]);
    await stored.given;
  });
  const { chunksDeleted } = await collect();
  goOn.give();
  expect((await sending)?.status).toBe(200);
  expect((await publisher.sendDisk(upload, [1])).status).toBe(200);
  expect((await publisher.commit(upload, firstVersion([1]))).status).toBe(201);
  expect([chunksDeleted, await problems()]).toEqual([0, []]);
});

test('garbage that is being deleted: an upload of the same block waits, and stores it afterwards', async () => {
  await leaveGarbage(1);
  const upload = await publisher.openUpload('debian', null);
  const { blobStore, catalogue } = server.repository;
  const remove = blobStore.removeChunks.bind(blobStore);
  const store = blobStore.storeChunks.bind(blobStore);
  const lock = catalogue.exclusively.bind(catalogue);
  const waitsOrStored = newSignal();
  let sending: ReturnType<TestPublisher['sendChunks']> | undefined;
  blobStore.removeChunks = async (digests) => {
    catalogue.exclusively = async (step) => {
      waitsOrStored.give();
      return lock(step);
    };
    blobStore.storeChunks = async (chunks) => {
      await store(chunks);
      waitsOrStored.give();
    };
    sending = publisher.sendChunks(upload, [1]);
    await waitsOrStored.given;
    await remove(digests);
  };
  const { chunksDeleted } = await collect();
  expect((await sending)?.status).toBe(200);
  expect([chunksDeleted, await isThere(1)]).toEqual([1, true]);
});

test('a chunk that a version names since the plan was made stays', async () => {
  await leaveGarbage(1);
  // The session is over with the commit: nothing reserves the chunk any more.
  beforeNextLock(async () => {
    const { reply } = await publisher.publish({ appliance: 'debian', version: 1, parent: null, plan: [1] });
    expect(reply.status).toBe(201);
  });
  expect([(await collect()).chunksDeleted, await problems()]).toEqual([0, []]);
});

test('a commit whose chunks are collected after it has looked for them looks again', async () => {
  const third = await prepareThird();
  afterNextLiveChunks(async () => expect((await collect()).chunksDeleted).toBe(2));
  await expectRefusedThenTaken(third, codeOf(await publisher.commit(third.upload, third.file)));
});

test('a commit looks again also when the collector died in the middle of its deletions', async () => {
  const third = await prepareThird();
  const { blobStore } = server.repository;
  const remove = blobStore.removeChunks.bind(blobStore);
  blobStore.removeChunks = async (digests) => {
    blobStore.removeChunks = remove;
    await remove(digests);
    throw new Error('killed');
  };
  afterNextLiveChunks(async () => expect(collect()).rejects.toThrow('killed'));
  await expectRefusedThenTaken(third, codeOf(await publisher.commit(third.upload, third.file)));
});

test('the collector ends what has expired by itself: where no server runs, nobody else does', async () => {
  const upload = await publisher.openUpload('debian', null);
  await publisher.sendChunks(upload, [1, 2]);
  server.clock.advance(server.repository.limits.uploadIdleSeconds - 1);
  expect(await collect()).toMatchObject({ chunksDeleted: 0, chunksKept: 2 });
  server.clock.advance(1);
  expect(await collect()).toMatchObject({ chunksDeleted: 2, chunksKept: 0 });
});

test.each(['cannot be written', 'is written and the collector dies'])(
  'forgetting a version whose state file %s: done again, and no lost catalogue makes it live once its chunks are gone',
  async (what) => {
    const { upload } = await prepareThird();
    await server.request('abandonUpload', { token: alice.token, params: { upload } });
    const { repository } = server;
    const { blobStore } = repository;
    const replace = blobStore.replace.bind(blobStore);
    blobStore.replace = async (name, bytes) => {
      blobStore.replace = replace;
      expect([name, Buffer.from(bytes).toString()]).toEqual([
        expect.stringContaining('debian/1/'),
        expect.stringMatching(/^forgotten /),
      ]);
      if (what !== 'cannot be written') await replace(name, bytes);
      throw new Error('dies');
    };
    await expect(collect()).rejects.toThrow('dies');
    expect([await isThere(11), await problems()]).toEqual([true, []]);
    const { versionsForgotten } = await collect();
    expect([versionsForgotten, await isThere(11)]).toEqual([1, false]);
    const catalogue = new MemoryCatalogue();
    const restarted = await assembleRepository({ ...repository, catalogue });
    const versions = await catalogue.versions.versions('debian');
    expect(versions.map(({ version, state }) => [version, state])).toEqual([
      [1, 'forgotten'],
      [2, 'live'],
    ]);
    expect([restarted.problems, (await checkRepository(restarted)).problems]).toEqual([[], []]);
  },
);
