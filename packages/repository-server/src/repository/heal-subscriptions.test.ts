/**
 * What a crash, a failed sync or a lost catalogue leaves half done on the way upload → commit → thin → collect, one story
 * a test: the process ends at one call, a new one starts over what is there, and asks or is asked again.
 */
import { CollectiveError } from '@collective/shared';
import { afterEach, describe, expect, test } from 'vitest';
import { type BlobName, snapshotManifestName, snapshotStateName, subscriptionFolder } from '../storage/blob-names.js';
import { MemoryBlobStore } from '../testing/memory-blob-store.js';
import { MemoryCatalogue, MemoryTables } from '../testing/memory-catalogue.js';
import { signSnapshot, type TestBackup } from '../testing/test-backup.js';
import { openSubscriber, type Subscriber, SUBSCRIPTION, written } from '../testing/test-subscriber.js';
import { checkRepository } from './check-repository.js';
import { collectGarbage } from './collector.js';
import { assembleRepository, type Repository } from './repository.js';
import { RETENTION_DEFAULT } from './retention.js';

class Stop extends Error {}

/** Ends the process at the n-th call that changes something, before or after it has its effect. */
class DyingBlobStore extends MemoryBlobStore {
  diesIn = Number.POSITIVE_INFINITY;
  isAfter = false;
  onSettle: (name: BlobName) => void = () => undefined;

  async #step<T>(work: () => Promise<T>): Promise<T> {
    this.diesIn -= 1;
    if (this.diesIn === 0 && !this.isAfter) throw new Stop();
    const result = await work();
    if (this.diesIn === 0) throw new Stop();
    return result;
  }
  override create(name: BlobName, bytes: Uint8Array): Promise<boolean> {
    return this.#step(() => super.create(name, bytes));
  }
  override replace(name: BlobName, bytes: Uint8Array): Promise<void> {
    return this.#step(() => super.replace(name, bytes));
  }
  override writePart(name: BlobName, bytes: Uint8Array, byteOffset: number): Promise<void> {
    return this.#step(() => super.writePart(name, bytes, byteOffset));
  }
  override adopt(from: BlobName, to: BlobName): Promise<void> {
    return this.#step(() => super.adopt(from, to));
  }
  override remove(name: BlobName): Promise<void> {
    return this.#step(() => super.remove(name));
  }
  override async settle(name: BlobName): Promise<void> {
    this.onSettle(name);
  }
}

let world: Subscriber;
let backup: TestBackup;
let blobStore: DyingBlobStore;
const open = async (tables = new MemoryTables()): Promise<void> => {
  blobStore = new DyingBlobStore();
  // So that few snapshots are enough for some to be thinned.
  const limits = { retention: { ...RETENTION_DEFAULT, newestCount: 2 } };
  world = await openSubscriber({ blobStore, catalogue: new MemoryCatalogue(tables), limits });
  backup = world.backup;
};
/** The n-th call, before and after its effect. */
const deaths = (calls: number): { readonly diesIn: number; readonly isAfter: boolean }[] =>
  Array.from({ length: calls * 2 }, (_, index) => ({ diesIn: 1 + (index >> 1), isAfter: index % 2 === 1 }));
afterEach(() => world.server.close());

const DAY = 86_400;
const of = () => ({ account: world.person.account, subscription: SUBSCRIPTION });
const subscriptions = () => world.server.repository.catalogue.subscriptions;
const restart = async (): Promise<Repository> => {
  blobStore.diesIn = Number.POSITIVE_INFINITY;
  const repository = await assembleRepository(world.server.repository);
  expect(repository.problems).toEqual([]);
  expect((await checkRepository(repository)).problems).toEqual([]);
  return repository;
};
const renewToken = async (): Promise<void> => {
  Object.assign(backup, { person: { ...backup.person, token: await world.server.deviceLogin(world.person.device) } });
};

describe('killed at any call', () => {
  test.each(deaths(6))(
    'of a commit ($diesIn, after its effect: $isAfter): asked again it is taken, once',
    async (death) => {
      await open();
      await backup.save({ plan: written({ 3: 1 }) });
      const made = backup.make({ plan: written({ 3: 2 }) });
      const upload = String((await backup.open(made.manifest)).json()['upload']);
      await backup.send(upload, made.data);
      Object.assign(blobStore, death);
      const { status } = await backup.commit(upload, made.file);
      await restart();
      // The last of the calls are those of what follows the manifest.
      expect([201, 500]).toContain(status);
      expect((await backup.commit(upload, made.file)).status).toBe(201);
      expect(await subscriptions().snapshotNumbers(of())).toEqual([1, 2]);
      backup.committed(made);
      await backup.save({ plan: written({ 3: 3 }) });
      expect((await checkRepository(world.server.repository)).problems).toEqual([]);
    },
  );
  test.each(deaths(8))(
    'of thinning and collecting ($diesIn, after its effect: $isAfter): the next one does the rest',
    async (death) => {
      await open();
      for (let at = 1; at <= 4; at += 1) {
        await backup.save({ plan: written({ 3: at, 200: 5_000 }) });
        world.server.clock.advance(1);
      }
      const collect = (repository: Repository) => collectGarbage(repository, { graceSeconds: 30 * DAY });
      for (const days of [2, 31]) {
        world.server.clock.advance(days * DAY);
        Object.assign(blobStore, death);
        await collect(world.server.repository).catch((error: unknown) => expect(error).toBeInstanceOf(Stop));
        await restart();
      }
      for (const days of [0, 31]) {
        world.server.clock.advance(days * DAY);
        await collect(world.server.repository);
      }
      expect((await checkRepository(world.server.repository)).problems).toEqual([]);
      expect(await subscriptions().snapshots(of(), ['kept', 'deleted'])).toHaveLength(2);
      expect(await blobStore.list('uploads' as BlobName)).toEqual([]);
      await renewToken();
      await backup.take();
      await backup.save({ plan: written({ 3: 100, 200: 5_000 }) });
    },
  );
});

test('a part that was cut off is written over; what was acknowledged is not asked for again', async () => {
  await open();
  const made = backup.make({ plan: written({ 3: 1, 4: 2 }) });
  const upload = String((await backup.open(made.manifest)).json()['upload']);
  expect((await backup.send(upload, made.data.subarray(0, 100))).json()).toEqual({ receivedBytes: 100 });
  // The bytes are there, the session does not know: the process ended between.
  Object.assign(blobStore, { diesIn: 1, isAfter: true });
  expect((await backup.send(upload, made.data.subarray(100, 400), 100)).status).toBe(500);
  await restart();
  const refused = await backup.send(upload, made.data.subarray(400), 400);
  expect(refused.json()).toMatchObject({ code: 'wrong-offset', data: { receivedBytes: 100 } });
  expect((await backup.open(made.manifest)).json()).toMatchObject({ upload, receivedBytes: 100 });
  expect((await backup.send(upload, made.data.subarray(100), 100)).status).toBe(200);
  expect((await backup.commit(upload, made.file)).status).toBe(201);
});

test('a manifest that is found after a crash is made durable before its row says that it is there', async () => {
  await open();
  const made = backup.make({ plan: written({ 3: 1 }) });
  const upload = String((await backup.open(made.manifest)).json()['upload']);
  await backup.send(upload, made.data);
  // Dies right after the manifest has its name.
  Object.assign(blobStore, { diesIn: 3, isAfter: true });
  expect((await backup.commit(upload, made.file)).status).toBe(500);
  expect(await subscriptions().snapshot(of(), 1)).toMatchObject({ state: 'pending' });
  expect(await subscriptions().head(of())).toBeUndefined();
  blobStore.diesIn = Number.POSITIVE_INFINITY;
  blobStore.onSettle = () => {
    throw new CollectiveError('local-io', 'EIO');
  };
  // While the disk fails nothing is built on it, and the answer is not a refusal.
  expect((await backup.commit(upload, made.file)).status).toBe(500);
  expect(await subscriptions().head(of())).toBeUndefined();
  const settled: string[] = [];
  blobStore.onSettle = (name) => void settled.push(name);
  await restart();
  expect(settled).toContain(snapshotManifestName(of(), 1));
  expect(await subscriptions().head(of())).toMatchObject({ number: 1, committedAt: world.server.clock.nowSeconds() });
});

test.each(['an empty one', 'an older one'])(
  'the catalogue is lost and %s takes its place: everything is found again',
  async (kind) => {
    const tables = new MemoryTables();
    await open(tables);
    await backup.save({ plan: written({ 3: 1 }) });
    await backup.save({ plan: written({ 3: 2 }) });
    const older = tables.copy();
    await backup.request('pinSnapshot', { params: { number: 1 } });
    world.server.clock.advance(77);
    await backup.save({ plan: written({ 3: 3 }) });
    const before = await subscriptions().snapshots(of(), ['kept']);
    const catalogue = new MemoryCatalogue(kind === 'an empty one' ? new MemoryTables() : older);
    const restarted = await assembleRepository({ ...world.server.repository, catalogue });
    expect(restarted.problems).toEqual([]);
    expect(await catalogue.subscriptions.snapshots(of(), ['kept'])).toEqual(before);
    expect(await catalogue.subscriptions.subscription(of())).toMatchObject({ appliance: 'debian', leaseNumber: 1 });
  },
);

test('a folder without its subscription file, and a snapshot folder without its manifest, are nothing', async () => {
  await open();
  await blobStore.replace(snapshotStateName(of(), 7), Buffer.from('committed 5\n'));
  await blobStore.replace(
    snapshotStateName({ ...of(), subscription: '7'.repeat(32) }, 1),
    Buffer.from('committed 5\n'),
  );
  await restart();
  expect(await subscriptions().snapshotNumbers(of())).toEqual([]);
  await backup.save({ plan: written({ 3: 1 }) });
});

test('a snapshot whose manifest is damaged: said at the start, and nothing is written over it', async () => {
  await open();
  const made = backup.make({ plan: written({ 3: 1 }) });
  await blobStore.replace(snapshotManifestName(of(), 1), Buffer.from('{'));
  const { problems } = await assembleRepository(world.server.repository);
  expect(problems).toHaveLength(1);
  const { reply } = await backup.upload(made);
  expect([reply.status, reply.json()['code']]).toEqual([500, 'local-io']);
  expect((await blobStore.read(snapshotManifestName(of(), 1)))?.toString()).toBe('{');
  expect(await blobStore.list(subscriptionFolder(of()))).toEqual(['1', 'subscription']);
});

test('check names what is wrong with a manifest: its device, its parent, its place', async () => {
  await open();
  const made = await backup.save({ plan: written({ 3: 1 }) });
  await backup.save({ plan: written({ 3: 2 }) });
  const put = async (bytes: Buffer): Promise<string> => {
    await blobStore.replace(snapshotManifestName(of(), 1), bytes);
    const { problems } = await checkRepository(world.server.repository);
    return problems.map(({ message }) => message).join('; ');
  };
  expect(await put(signSnapshot(made.manifest, world.alice.device))).toMatch(/the catalogue says/);
  expect(await put(signSnapshot({ ...made.manifest, number: 5, objects: [5] }, world.person.device))).toMatch(
    /says that it is/,
  );
  expect(await put(Buffer.from('x'))).not.toBe('');
  await put(made.file);
  await subscriptions().removeSnapshot(of(), 1);
  expect((await checkRepository(world.server.repository)).problems).toMatchObject([{ kind: 'snapshot' }]);
});
