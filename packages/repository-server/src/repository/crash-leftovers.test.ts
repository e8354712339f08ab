/**
 * What a crash, a failed sync or a lost catalogue left half done, one story a test. The simulation (test/simulation/repository.sim.ts)
 * found each of them.
 */
import { CollectiveError, openHeads, sha256 } from '@collective/shared';
import { afterEach, expect, test } from 'vitest';
import { HEADS, manifestName } from '../storage/blob-names.js';
import { type BlobName } from '../storage/blob-names.js';
import { MemoryBlobStore } from '../testing/memory-blob-store.js';
import { MemoryCatalogue, MemoryTables } from '../testing/memory-catalogue.js';
import { chunkOf, manifestOf, signManifest, TestPublisher } from '../testing/test-publisher.js';
import { type TestPerson, TestRepository } from '../testing/test-repository.js';
import { checkRepository } from './check-repository.js';
import { collectGarbage } from './collector.js';
import { assembleRepository } from './repository.js';
import { readStateFile } from './version-file.js';

class HookedBlobStore extends MemoryBlobStore {
  onReplace: (name: BlobName) => void = () => undefined;
  onSettle: () => void = () => undefined;
  onList: () => Promise<void> = async () => undefined;
  readonly settled: BlobName[] = [];

  override async replace(name: BlobName, bytes: Uint8Array): Promise<void> {
    this.onReplace(name);
    await super.replace(name, bytes);
  }
  override async settle(name: BlobName): Promise<void> {
    this.onSettle();
    this.settled.push(name);
  }
  override async *listChunks(): ReturnType<MemoryBlobStore['listChunks']> {
    await this.onList();
    yield* super.listChunks();
  }
}

let server: TestRepository;
let alice: TestPerson;
let publisher: TestPublisher;
let blobStore: HookedBlobStore;
const tables = (): MemoryTables => new MemoryTables();
const open = async (rows = tables()): Promise<void> => {
  blobStore = new HookedBlobStore();
  server = await TestRepository.open({ blobStore, catalogue: new MemoryCatalogue(rows) });
  alice = await server.join('alice', 'publisher');
  await server.allow(alice, 'debian');
  publisher = new TestPublisher(server, alice);
};
afterEach(() => server.close());

const publish = async (version: number, plan: readonly number[]): Promise<Buffer> => {
  const head = await server.repository.catalogue.versions.head('debian');
  const parent = head === undefined ? null : { version: head.version, manifest: head.manifest };
  const { reply, file } = await publisher.publish({ appliance: 'debian', version, parent, plan });
  expect(reply.status).toBe(201);
  return file;
};
/** Version 3 with a block that lives in version 1 alone, which is deleted: uploaded, signed, not committed. */
const prepareThird = async (): Promise<Buffer> => {
  await publish(1, [1, 11]);
  const second = await publish(2, [1, 12]);
  const upload = await publisher.openUpload('debian', 2);
  expect(await publisher.lacking(upload, [chunkOf(11).digest])).toEqual([]);
  const plan = [1, 11, 13];
  await publisher.sendChunks(upload, [13]);
  await publisher.sendDisk(upload, plan);
  const params = { name: 'debian', version: 1 };
  expect((await server.request('deleteVersion', { token: alice.token, params })).status).toBe(200);
  server.clock.advance(1);
  const parent = { version: 2, manifest: sha256(second) };
  return signManifest(manifestOf({ appliance: 'debian', version: 3, parent, plan }), alice.publishing);
};

test('a server dies between manifest and index beside a collector: the version that no row names keeps its chunks', async () => {
  await open();
  const file = await prepareThird();
  // After the collector has forgotten version 1 and walked the manifests, before it deletes.
  blobStore.onList = async () => void (await blobStore.create(manifestName('debian', 3), file));
  await collectGarbage(server.repository, { graceSeconds: 0 });
  const { repository } = server;
  const restarted = await assembleRepository(repository);
  expect(restarted.problems).toEqual([]);
  expect((await checkRepository(restarted)).problems).toEqual([]);
  expect((await repository.catalogue.versions.head('debian'))?.version).toBe(3);
});

test('a manifest that is found after a crash is made durable before it gets its row', async () => {
  await open();
  const file = await prepareThird();
  await blobStore.create(manifestName('debian', 3), file);
  blobStore.settled.length = 0;
  await assembleRepository(server.repository);
  expect(blobStore.settled).toEqual([manifestName('debian', 3)]);
});

test('a manifest got its name, but its sync failed: asked again the server does not say conflict, and then takes it', async () => {
  await open();
  const first = signManifest(
    manifestOf({ appliance: 'debian', version: 1, parent: null, plan: [1] }),
    alice.publishing,
  );
  const upload = await publisher.openUpload('debian', null);
  await publisher.sendChunks(upload, [1]);
  await publisher.sendDisk(upload, [1]);
  // What a failed sync leaves; the disk still fails.
  await blobStore.create(manifestName('debian', 1), first);
  blobStore.onSettle = () => {
    throw new CollectiveError('local-io', 'EIO');
  };
  expect((await publisher.commit(upload, first)).status).toBe(500);
  // Nor does anything follow what is not known.
  const later = manifestOf({ appliance: 'debian', version: 2, parent: null, plan: [1] });
  expect((await publisher.commit(upload, signManifest(later, alice.publishing))).status).toBe(500);
  blobStore.onSettle = () => undefined;
  expect((await publisher.commit(upload, first)).status).toBe(201);
  expect((await server.repository.catalogue.versions.versions('debian')).map(({ version }) => version)).toEqual([1]);
});

test.each(['the manifest', 'the access'])(
  'a server dies right after %s of a new appliance: its maker may go on publishing it, and nobody else',
  async (last) => {
    await open();
    const bob = await server.join('bob', 'publisher');
    await server.allow(bob, 'debian');
    const upload = await publisher.openUpload('debian', null);
    await publisher.sendChunks(upload, [1]);
    await publisher.sendDisk(upload, [1]);
    const { catalogue } = server.repository;
    const { people, versions } = catalogue;
    const { setAccess } = people;
    const { recordVersion } = versions;
    const die = (): Promise<never> => Promise.reject(new Error('kill -9'));
    if (last === 'the manifest') people.setAccess = die;
    versions.recordVersion = die;
    const manifest = manifestOf({ appliance: 'debian', version: 1, parent: null, plan: [1] });
    expect((await publisher.commit(upload, signManifest(manifest, alice.publishing))).status).toBe(500);
    Object.assign(people, { setAccess });
    Object.assign(versions, { recordVersion });

    await assembleRepository(server.repository);
    expect(await publisher.openUpload('debian', 1)).toMatch(/^[0-9a-f]{32}$/);
    expect(await people.accessOf('bob')).toEqual([]);
  },
);

test('access that was taken away stays away: whoever asks for the same commit again, after any crash, does not get it back', async () => {
  const rows = tables();
  await open(rows);
  const { reply, file, upload } = await publisher.publish({ appliance: 'debian', version: 1, parent: null, plan: [1] });
  expect(reply.status).toBe(201);
  const { people, versions } = server.repository.catalogue;
  const access = () => people.accessOf('alice');
  expect(await access()).toEqual([{ name: 'debian', access: 'publish' }]);
  await people.removeAccess('alice', 'debian');
  // Known before: the same answer, and no more.
  expect((await publisher.commit(upload, file)).status).toBe(201);
  expect(await access()).toEqual([]);
  // A later version is found after a crash: the appliance has a row.
  const parent = { version: 1, manifest: sha256(file) };
  const second = manifestOf({ appliance: 'debian', version: 2, parent, plan: [1] });
  await blobStore.create(manifestName('debian', 2), signManifest(second, alice.publishing));
  await assembleRepository(server.repository);
  expect((await versions.head('debian'))?.version).toBe(2);
  expect(await access()).toEqual([]);
  // A catalogue from before the appliance was made: nobody knows what was decided since.
  for (const version of [1, 2]) await versions.removeVersion('debian', version);
  await assembleRepository(server.repository);
  expect((await versions.head('debian'))?.version).toBe(2);
  expect(await access()).toEqual([]);
});

test('a revoked publisher gets no access to what was being made', async () => {
  await open();
  const upload = await publisher.openUpload('debian', null);
  await publisher.sendChunks(upload, [1]);
  await publisher.sendDisk(upload, [1]);
  const { people, versions } = server.repository.catalogue;
  const manifest = manifestOf({ appliance: 'debian', version: 1, parent: null, plan: [1] });
  await blobStore.create(manifestName('debian', 1), signManifest(manifest, alice.publishing));
  await people.revokeAccount('alice', server.clock.nowSeconds());
  await assembleRepository(server.repository);
  expect((await versions.head('debian'))?.version).toBe(1);
  expect(await people.accessOf('alice')).toEqual([]);
});

test('heads that were shown and that a power cut took back: the next ones have a higher number', async () => {
  await open();
  await publish(1, [1]);
  const before = await blobStore.read(HEADS);
  await publish(2, [2]);
  const trust = await server.repository.trust.current();
  const shown = openHeads((await blobStore.read(HEADS)) ?? Buffer.alloc(0), trust);
  await blobStore.replace(HEADS, before ?? Buffer.alloc(0));
  await assembleRepository(server.repository);
  const next = openHeads((await blobStore.read(HEADS)) ?? Buffer.alloc(0), trust);
  expect(next.number).toBeGreaterThan(shown.number);
  expect(next.heads).toEqual(shown.heads);
});

test.each(['withdrawVersion', 'deleteVersion'] as const)(
  '%s whose state file could not be written: asked again it is acknowledged when the file is there, which a lost catalogue needs',
  async (name) => {
    await open();
    await publish(1, [1]);
    await publish(2, [2]);
    const state = name === 'deleteVersion' ? 'deleted' : 'withdrawn';
    const change = async () =>
      (await server.request(name, { token: alice.token, params: { name: 'debian', version: 1 } })).status;
    blobStore.onReplace = () => {
      throw new CollectiveError('disk-full');
    };
    expect([await change(), (await readStateFile(blobStore, 'debian', 1)).state]).toEqual([507, 'live']);
    blobStore.onReplace = () => undefined;
    expect([await change(), (await readStateFile(blobStore, 'debian', 1)).state]).toEqual([200, state]);
  },
);

test('a commit that failed when its heads could not be written is in the heads when it is asked again', async () => {
  await open();
  await publish(1, [1]);
  const head = await server.repository.catalogue.versions.head('debian');
  const parent = { version: 1, manifest: head?.manifest ?? sha256(Buffer.alloc(0)) };
  const upload = await publisher.openUpload('debian', 1);
  await publisher.sendChunks(upload, [2]);
  await publisher.sendDisk(upload, [2]);
  const file = signManifest(manifestOf({ appliance: 'debian', version: 2, parent, plan: [2] }), alice.publishing);
  blobStore.onReplace = (name) => {
    if (name === HEADS) throw new Error('no space');
  };
  expect((await publisher.commit(upload, file)).status).toBe(500);
  blobStore.onReplace = () => undefined;
  expect((await publisher.commit(upload, file)).status).toBe(201);
  const trust = await server.repository.trust.current();
  const heads = openHeads((await blobStore.read(HEADS)) ?? Buffer.alloc(0), trust);
  expect(heads.heads).toEqual([{ appliance: 'debian', version: 2, manifest: sha256(file) }]);
});

test.each(['an older one', 'an empty one'])(
  'the catalogue is lost and %s takes its place: chunks of a forgotten version are lacking, and nothing is damaged',
  async (kind) => {
    const rows = tables();
    await open(rows);
    await publish(1, [1, 11]);
    await publish(2, [1, 12]);
    const backup = kind === 'an empty one' ? tables() : rows.copy();
    const params = { name: 'debian', version: 1 };
    expect((await server.request('deleteVersion', { token: alice.token, params })).status).toBe(200);
    server.clock.advance(1);
    expect(await collectGarbage(server.repository, { graceSeconds: 0 })).toMatchObject({ versionsForgotten: 1 });
    const catalogue = new MemoryCatalogue(backup);
    const { blobStore: files, keys, limits, clock } = server.repository;
    const restarted = await assembleRepository({ blobStore: files, catalogue, keys, limits, clock });
    expect(restarted.problems).toEqual([]);
    expect((await catalogue.versions.version('debian', 1))?.state).toBe('forgotten');
    expect(await catalogue.versions.liveChunks([chunkOf(11).digest])).toEqual(new Map());
    expect((await catalogue.versions.liveChunks([1, 12].map((seed) => chunkOf(seed).digest))).size).toBe(2);
  },
);
