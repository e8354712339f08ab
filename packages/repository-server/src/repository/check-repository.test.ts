import { mkdir, mkdtemp, readFile, rm, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { decodeHeads, encodeChunk, openEnvelope, PAYLOAD_TYPES, sha256 } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { SqliteCatalogue } from '../catalogue/sqlite-catalogue.js';
import { HEADS, keysName, latestName, manifestName, trustName, versionStateName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { FolderBlobStore } from '../storage/folder-blob-store.js';
import { blockOf, chunkOf, manifestOf, mapOf, signManifest, TestPublisher } from '../testing/test-publisher.js';
import { newKey, type TestPerson, TestRepository } from '../testing/test-repository.js';
import { checkRepository } from './check-repository.js';
import { assembleRepository } from './repository.js';

let folder: string;
let server: TestRepository;
let alice: TestPerson;
const PLAN = [1, 2, 3];
let files: [Buffer, Buffer];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'check-'));
  await mkdir(join(folder, 'server'));
  const catalogue = await SqliteCatalogue.open({
    database: join(folder, 'catalogue.sqlite'),
    lock: join(folder, 'server', 'lock.sqlite'),
  });
  server = await TestRepository.open({ blobStore: await FolderBlobStore.open(folder), catalogue });
  alice = await server.join('alice', 'publisher');
  await server.allow(alice, 'debian');
  const publisher = new TestPublisher(server, alice);
  const one = await publisher.publish({ appliance: 'debian', version: 1, parent: null, plan: PLAN });
  const parent = { version: 1, manifest: sha256(one.file) };
  const two = await publisher.publish({ appliance: 'debian', version: 2, parent, plan: [1, 2, 4] });
  files = [one.file, two.file];
});
afterEach(async () => {
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

/** Problems as "kind name". The maps are read afresh: nothing that was loaded before hides damage. */
const check = async (): Promise<string[]> => {
  const { repository } = server;
  const parts = {
    blobStore: await FolderBlobStore.open(folder),
    catalogue: repository.catalogue,
    keys: repository.keys,
    limits: repository.limits,
    clock: repository.clock,
  };
  const { MapStore } = await import('./map-store.js');
  const { problems } = await checkRepository({
    ...parts,
    maps: new MapStore(parts.blobStore, { ...repository.limits, mapCacheBytesMax: 0 }),
  });
  return problems.map(({ kind, name }) => `${kind} ${name}`).sort();
};
const chunkPath = (digest: string): string => join(folder, 'chunks', digest.slice(0, 2), digest);
const flip = async (path: string, at: number): Promise<void> => {
  const bytes = await readFile(path);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  await writeFile(path, bytes);
};

describe('check', () => {
  test('finds nothing in a whole repository', async () => {
    expect(await check()).toEqual([]);
  });
  test('names a chunk of which any bit is wrong, or which is cut off, or holds another block', async () => {
    const { digest } = chunkOf(2);
    const whole = await readFile(chunkPath(digest));
    for (const at of [0, 4, 12, 20, 60, whole.length - 1]) {
      await flip(chunkPath(digest), at);
      expect(await check(), `byte ${at}`).toEqual([`chunk ${digest}`]);
      await writeFile(chunkPath(digest), whole);
    }
    for (const bad of [whole.subarray(0, -1), Buffer.alloc(0), encodeChunk(blockOf(3))]) {
      await writeFile(chunkPath(digest), bad);
      expect(await check()).toEqual([`chunk ${digest}`]);
    }
  });
  test('names a chunk that is missing', async () => {
    await unlink(chunkPath(chunkOf(3).digest));
    expect(await check()).toEqual([`missing ${chunkOf(3).digest}`]);
  });
  test('names the version whose map page is missing or damaged', async () => {
    const { root } = mapOf(PLAN).build();
    await flip(chunkPath(root), 60);
    expect(await check()).toEqual([`chunk ${root}`, 'map debian@1']);
    await unlink(chunkPath(root));
    expect(await check()).toEqual(['map debian@1']);
  });
  test('names a manifest that was changed, replaced by another that is well signed, or taken away', async () => {
    const { blobStore } = server.repository;
    const name = manifestName('debian', 1);
    await flip(join(folder, name), 100);
    expect(await check()).toContain(`manifest ${name}`);
    const other = signManifest(
      manifestOf({ appliance: 'debian', version: 1, parent: null, plan: PLAN, title: 'other' }),
      alice.publishing,
    );
    await blobStore.replace(name, other);
    // Version 2 names the digest of the one that was there; the catalogue does too.
    expect(await check()).toEqual([`manifest ${name}`, `manifest ${manifestName('debian', 2)}`]);
    await blobStore.remove(name);
    expect(await check()).toEqual([`manifest ${name}`, `manifest ${manifestName('debian', 2)}`]);
  });
  test('names a manifest by a key that no trust file ever allowed, and not one whose key was revoked later', async () => {
    await server.changeTrust({ publishers: [] });
    expect(await check()).toEqual([]);
    const file = signManifest(
      manifestOf({
        appliance: 'debian',
        version: 2,
        parent: { version: 1, manifest: sha256(files[0]) },
        plan: [1, 2, 4],
      }),
      newKey(),
    );
    await server.repository.blobStore.replace(manifestName('debian', 2), file);
    expect(await check()).toEqual([
      'heads heads',
      `manifest ${manifestName('debian', 2)}`,
      `manifest ${manifestName('debian', 2)}`,
    ]);
  });
  test('names heads that are missing, forged or behind, and trust files that do not follow', async () => {
    const { blobStore } = server.repository;
    const heads = (await blobStore.read(HEADS)) ?? Buffer.alloc(0);
    await flip(join(folder, HEADS), heads.length - 20);
    expect(await check()).toEqual(['heads heads']);
    await blobStore.remove(HEADS);
    expect(await check()).toEqual(['heads heads']);
    await blobStore.replace(HEADS, heads);
    await blobStore.replace(trustName(3), (await blobStore.read(trustName(2))) ?? Buffer.alloc(0));
    expect(await check()).toEqual([`trust ${trustName(3)}`]);
  });
  test('names keys files that are damaged and files among the chunks that are none', async () => {
    await writeFile(join(folder, keysName('alice')), '{}');
    await writeFile(join(folder, 'chunks', 'aa', 'notes'), 'x');
    expect(await check()).toEqual([`account ${keysName('alice')}`, 'stray chunks/aa/notes']);
  });
  test('lists whole chunks that nothing names as orphans, not as problems', async () => {
    const orphan = chunkOf(99);
    await server.repository.blobStore.storeChunks([orphan]);
    expect(await check()).toEqual([]);
    expect((await checkRepository(server.repository)).orphans).toEqual([orphan.digest]);
  });
});

describe('a start after a crash', () => {
  const headsNow = async (blobStore: BlobStore): Promise<unknown> =>
    decodeHeads(
      openEnvelope((await blobStore.read(HEADS)) ?? Buffer.alloc(0), { payloadType: PAYLOAD_TYPES.heads }).payload,
    ).heads;

  // Each write after the manifest fails, as if the power had gone: the version is there all the same.
  test.each(['recordVersion', 'addLiveChunks', 'markCommitted', HEADS, latestName('debian')])(
    'between the manifest and %s makes good what is lacking, and the client is told that it is done',
    async (where) => {
      const { repository } = server;
      const publisher = new TestPublisher(server, alice);
      const upload = await publisher.openUpload('debian', 2);
      const plan = [1, 2, 5];
      await publisher.sendChunks(upload, plan);
      await publisher.sendDisk(upload, plan);
      const parent = { version: 2, manifest: sha256(files[1]) };
      const file = signManifest(manifestOf({ appliance: 'debian', version: 3, parent, plan }), alice.publishing);

      const fail = (): Promise<never> => Promise.reject(new Error('power cut'));
      const { versions, uploads } = repository.catalogue;
      const originals = {
        recordVersion: versions.recordVersion,
        addLiveChunks: versions.addLiveChunks,
        markCommitted: uploads.markCommitted,
        replace: repository.blobStore.replace.bind(repository.blobStore),
      };
      if (where === 'recordVersion') versions.recordVersion = fail;
      else if (where === 'addLiveChunks') versions.addLiveChunks = fail;
      else if (where === 'markCommitted') uploads.markCommitted = fail;
      else repository.blobStore.replace = (name, bytes) => (name === where ? fail() : originals.replace(name, bytes));
      expect((await publisher.commit(upload, file)).status).toBe(500);
      Object.assign(versions, { recordVersion: originals.recordVersion, addLiveChunks: originals.addLiveChunks });
      Object.assign(uploads, { markCommitted: originals.markCommitted });
      repository.blobStore.replace = originals.replace;

      const again = await assembleRepository(repository);
      expect(again.problems).toEqual([]);
      expect(await headsNow(repository.blobStore)).toEqual([
        { appliance: 'debian', version: 3, manifest: sha256(file) },
      ]);
      expect(await check()).toEqual([]);
      const reply = await publisher.commit(upload, file);
      expect([reply.status, reply.json()]).toEqual([201, { version: 3, manifest: sha256(file) }]);
      expect(await publisher.openUpload('debian', 3)).toMatch(/^[0-9a-f]{32}$/);
    },
  );
  test('without the catalogue finds its versions and their states again', async () => {
    const { repository } = server;
    await server.request('withdrawVersion', { token: alice.token, params: { name: 'debian', version: 1 } });
    const fresh = await SqliteCatalogue.open({
      database: join(folder, 'fresh.sqlite'),
      lock: join(folder, 'server', 'fresh.lock'),
    });
    const again = await assembleRepository({ ...repository, catalogue: fresh });
    const old = await repository.catalogue.versions.versions('debian');
    expect(await fresh.versions.versions('debian')).toEqual(old);
    expect(again.problems).toEqual([]);
    await fresh.close();
  });
  test('does not sign heads that go back when a version is gone, and says what to do', async () => {
    const { repository } = server;
    await rm(join(folder, 'appliances', 'debian', '2'), { recursive: true });
    await repository.catalogue.versions.removeVersion('debian', 2);
    await expect(assembleRepository(repository)).rejects.toMatchObject({
      code: 'local-io',
      message: /restore the newest backup/,
    });
  });
  test('with a damaged map starts, serves the rest, and reports it', async () => {
    const { repository } = server;
    await flip(chunkPath(mapOf(PLAN).build().root), 60);
    const fresh = await SqliteCatalogue.open({
      database: join(folder, 'fresh.sqlite'),
      lock: join(folder, 'server', 'fresh.lock'),
    });
    const again = await assembleRepository({ ...repository, catalogue: fresh });
    expect(again.problems).toHaveLength(1);
    expect(again.problems[0]).toMatch(/^debian@1: /);
    expect((await fresh.versions.head('debian'))?.version).toBe(2);
    await fresh.close();
  });
  test('with an unreadable state file keeps the blocks', async () => {
    const { repository } = server;
    await repository.blobStore.replace(versionStateName('debian', 1), Buffer.from('nonsense'));
    const fresh = await SqliteCatalogue.open({
      database: join(folder, 'fresh.sqlite'),
      lock: join(folder, 'server', 'fresh.lock'),
    });
    await assembleRepository({ ...repository, catalogue: fresh });
    expect(await fresh.versions.version('debian', 1)).toMatchObject({
      state: 'withdrawn',
      stateSince: Number.MAX_SAFE_INTEGER,
    });
    await fresh.close();
  });
});

describe('heads', () => {
  test('are signed again after half of their time, with a higher number, and not before', async () => {
    const { repository, clock } = server;
    const number = async (): Promise<number> =>
      decodeHeads(
        openEnvelope((await repository.blobStore.read(HEADS)) ?? Buffer.alloc(0), { payloadType: PAYLOAD_TYPES.heads })
          .payload,
      ).number;
    const before = await number();
    expect(await repository.heads.refresh()).toBe(false);
    clock.advance(repository.limits.headsSeconds / 2 + 1);
    expect(await repository.heads.refresh()).toBe(true);
    expect(await number()).toBe(before + 1);
    expect(await check()).toEqual([]);
  });
});
