import { type Digest, sha256 } from '@collective/shared';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Upload } from '../catalogue/catalogue.js';
import { chunkOf, manifestOf, mapOf, signManifest, TestPublisher } from '../testing/test-publisher.js';
import { type TestPerson, TestRepository } from '../testing/test-repository.js';
import { checkRepository } from './check-repository.js';
import { collectGarbage, isGarbage, isOver } from './collector.js';
import { manifestName } from '../storage/blob-names.js';

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

const DAY = 86_400;
const gc = (graceSeconds = 30 * DAY) => collectGarbage(server.repository, { graceSeconds });
const isThere = async (seed: number): Promise<boolean> =>
  (await server.repository.blobStore.readChunk(chunkOf(seed).digest)) !== undefined;
const expectClean = async (): Promise<void> => {
  expect((await checkRepository(server.repository)).problems).toEqual([]);
};
/** Versions 1 to n, each with a block of its own (10 + n) and one that all share. */
const publishVersions = async (count: number): Promise<void> => {
  let parent: { version: number; manifest: Digest } | null = null;
  for (let version = 1; version <= count; version += 1) {
    const { reply, file } = await publisher.publish({ appliance: 'debian', version, parent, plan: [1, 10 + version] });
    expect(reply.status).toBe(201);
    parent = { version, manifest: sha256(file) };
  }
};
const end = (name: 'withdrawVersion' | 'deleteVersion', version: number) =>
  server.request(name, { token: alice.token, params: { name: 'debian', version } });

describe('the collector', () => {
  test('leaves everything that a version names', async () => {
    await publishVersions(3);
    server.clock.advance(1);
    expect(await gc(0)).toMatchObject({ chunksDeleted: 0, versionsForgotten: 0 });
    await expectClean();
  });
  test('deletes what an abandoned upload left, and not while a session that began before is open', async () => {
    const upload = await publisher.openUpload('debian', null);
    await publisher.sendChunks(upload, [1, 2]);
    const older = await publisher.openUpload('debian', null);
    await server.request('abandonUpload', { token: alice.token, params: { upload } });
    server.clock.advance(10);
    expect(await gc()).toMatchObject({ chunksDeleted: 0, chunksKept: 2 });
    await server.request('abandonUpload', { token: alice.token, params: { upload: older } });
    expect(await gc()).toMatchObject({ chunksDeleted: 2, chunksKept: 0 });
  });
  test('leaves what an open upload has stored, and collects it when the session has expired', async () => {
    const upload = await publisher.openUpload('debian', null);
    await publisher.sendChunks(upload, [1, 2]);
    server.clock.advance(10);
    expect(await gc()).toMatchObject({ chunksDeleted: 0 });
    expect(await publisher.lacking(upload, [chunkOf(1).digest])).toEqual([]);
    server.clock.advance(2 * DAY);
    expect(await gc()).toMatchObject({ chunksDeleted: 2 });
  });
  test.each(['withdrawVersion', 'deleteVersion'] as const)(
    '%s: blocks stay for the grace time, then go, and the rest stays',
    async (name) => {
      await publishVersions(3);
      await end(name, 1);
      server.clock.advance(30 * DAY - 1);
      expect(await gc()).toMatchObject({ versionsForgotten: 0, chunksDeleted: 0 });
      expect(await isThere(11)).toBe(true);
      server.clock.advance(1);
      // Its own block and its map page.
      expect(await gc()).toMatchObject({ versionsForgotten: 1, chunksDeleted: 2 });
      expect([await isThere(11), await isThere(12), await isThere(1)]).toEqual([false, true, true]);
      await expectClean();
      expect(await gc()).toMatchObject({ versionsForgotten: 0, chunksDeleted: 0 });
      const token = await server.deviceLogin(alice.device);
      const params = { name: 'debian', version: 1 };
      expect((await server.request('versionManifest', { token, params })).status).toBe(200);
      expect((await server.request('diskMap', { token, params: { ...params, disk: 'system' } })).status).toBe(404);
    },
  );
  test('never forgets the highest version: a withdrawn one that has become it because a newer one is lost', async () => {
    await publishVersions(3);
    await end('withdrawVersion', 2);
    await server.repository.blobStore.remove(manifestName('debian', 3));
    await server.repository.catalogue.versions.removeVersion('debian', 3);
    server.clock.advance(1);
    expect(await gc(0)).toMatchObject({ versionsForgotten: 0 });
    expect(await isThere(12)).toBe(true);
  });
  test('a block that is garbage is asked for again, also while its file is still there', async () => {
    await publishVersions(2);
    const upload = await publisher.openUpload('debian', 2);
    await publisher.sendChunks(upload, [77]);
    await server.request('abandonUpload', { token: alice.token, params: { upload } });
    const second = await publisher.openUpload('debian', 2);
    expect(await isThere(77)).toBe(true);
    expect(await publisher.lacking(second, [chunkOf(77).digest])).toEqual([chunkOf(77).digest]);
  });
  test('a commit that counted on a version which the collector forgot meanwhile is refused, and works after sending again', async () => {
    await publishVersions(2);
    await end('deleteVersion', 1);
    const upload = await publisher.openUpload('debian', 2);
    // Block 11 lives only in version 1, which is deleted: the session is told that it is there.
    expect(await publisher.lacking(upload, [chunkOf(11).digest])).toEqual([]);
    const head = await server.repository.catalogue.versions.head('debian');
    const parent = { version: 2, manifest: head?.manifest ?? sha256(Buffer.alloc(0)) };
    const options = { appliance: 'debian', version: 3, parent, plan: [1, 11] };
    await publisher.sendDisk(upload, options.plan);
    server.clock.advance(1);
    const { repository } = server;
    await collectGarbage(repository, { graceSeconds: 0 });
    const file = signManifest(manifestOf(options), alice.publishing);
    const refused = await publisher.commit(upload, file);
    expect([refused.status, refused.json()['code']]).toEqual([404, 'block-missing']);
    await publisher.sendChunks(upload, [11]);
    await publisher.sendDisk(upload, options.plan);
    expect((await publisher.commit(upload, file)).status).toBe(201);
    await expectClean();
  });
  test('a chunk that is stored again between the plan and the deletion stays', async () => {
    const upload = await publisher.openUpload('debian', null);
    await publisher.sendChunks(upload, [1]);
    await server.request('abandonUpload', { token: alice.token, params: { upload } });
    server.clock.advance(10);
    const { repository } = server;
    const { catalogue } = repository;
    // Just before the collector's first exclusive step after its plan, another publisher stores the same block.
    let stored = 0;
    const original = catalogue.exclusively.bind(catalogue);
    catalogue.exclusively = async (step) => {
      if (stored === 0) {
        stored = 1;
        const second = await publisher.openUpload('debian', null);
        await publisher.sendChunks(second, [1]);
      }
      return original(step);
    };
    expect(await collectGarbage(repository, { graceSeconds: 0 })).toMatchObject({ chunksDeleted: 0 });
    catalogue.exclusively = original;
    expect([stored, await isThere(1)]).toEqual([1, true]);
  });
  test('stops when a manifest or a page cannot be read', async () => {
    await publishVersions(1);
    const { blobStore } = server.repository;
    await blobStore.removeChunks([mapOf([1, 11]).build().root]);
    await expect(gc(0)).rejects.toMatchObject({ code: 'block-missing' });
    expect(await isThere(11)).toBe(true);
  });
});

describe('the plan', () => {
  const digest = sha256(Buffer.from('x'));
  test('only what is named by nothing and older than every session is garbage', () => {
    fc.assert(
      fc.property(fc.boolean(), fc.integer(), fc.integer(), (isNamed, modifiedAtMs, beforeMs) => {
        const named = new Set(isNamed ? [digest] : []);
        expect(isGarbage({ digest, chunkBytes: 1, modifiedAtMs }, named, beforeMs)).toBe(
          !isNamed && modifiedAtMs < beforeMs,
        );
      }),
    );
  });
  test('grace counts from withdrawal or deletion; live and forgotten versions are never over', () => {
    const record = {
      appliance: 'a',
      version: 1,
      manifest: digest,
      createdAt: 0,
      title: '',
      chunkBytes: 0,
      indexed: true,
    } as const;
    for (const [state, over] of [
      ['live', false],
      ['forgotten', false],
      ['withdrawn', true],
      ['deleted', true],
    ] as const) {
      expect(isOver({ ...record, state, stateSince: 10 }, 40, 30)).toBe(over);
      expect(isOver({ ...record, state, stateSince: 11 }, 40, 30)).toBe(false);
    }
  });
});

/** A publisher's life in small steps, with collections, withdrawals and time in between, in any order. */
test('whatever publishers and the collector do in whatever order, nothing that a version names is missing', async () => {
  const step = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('publish' as const),
        seeds: fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 4 }),
        who: fc.integer({ min: 0, max: 1 }),
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        kind: fc.constant('begin' as const),
        seeds: fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 4 }),
        who: fc.integer({ min: 0, max: 1 }),
      }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('finish' as const) }) },
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant('end' as const), which: fc.nat({ max: 3 }), deletes: fc.boolean() }),
    },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('collect' as const) }) },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant('wait' as const), seconds: fc.integer({ min: 1, max: 100 }) }),
    },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 14 }), async (steps) => {
      const one = await TestRepository.open();
      const people = [
        await one.join('alice', 'publisher'),
        await one.join('bob', 'publisher', [{ name: 'debian', access: 'publish' }]),
      ];
      for (const person of people) await one.allow(person, 'debian');
      let begun: { upload: string; seeds: number[]; who: number } | undefined;
      const finish = async (upload: string, seeds: number[], who: number): Promise<void> => {
        const person = people[who];
        if (person === undefined) return;
        const racer = new TestPublisher(one, person);
        const head = await one.repository.catalogue.versions.head('debian');
        const parent = head === undefined ? null : { version: head.version, manifest: head.manifest };
        const file = signManifest(
          manifestOf({ appliance: 'debian', version: (head?.version ?? 0) + 1, parent, plan: seeds }),
          person.publishing,
        );
        const sent = await racer.sendDisk(upload, seeds);
        if (sent.status === 200) expect([201, 404, 409]).toContain((await racer.commit(upload, file)).status);
      };
      const begin = async (seeds: number[], who: number): Promise<string | undefined> => {
        const person = people[who];
        if (person === undefined) return undefined;
        const head = await one.repository.catalogue.versions.head('debian');
        const opened = await new TestPublisher(one, person).tryOpenUpload('debian', head?.version ?? null);
        if (opened.status !== 200) return undefined;
        const upload = String(opened.json()['upload']);
        const lacking = new Set(
          await new TestPublisher(one, person).lacking(
            upload,
            seeds.map((seed) => chunkOf(seed).digest),
          ),
        );
        await new TestPublisher(one, person).sendChunks(
          upload,
          seeds.filter((seed) => lacking.has(chunkOf(seed).digest)),
        );
        return upload;
      };
      for (const item of steps) {
        if (item.kind === 'wait') one.clock.advance(item.seconds);
        else if (item.kind === 'collect') await collectGarbage(one.repository, { graceSeconds: 50 });
        else if (item.kind === 'publish') {
          const upload = await begin(item.seeds, item.who);
          if (upload !== undefined) await finish(upload, item.seeds, item.who);
        } else if (item.kind === 'begin') {
          const upload = await begin(item.seeds, item.who);
          if (upload !== undefined) begun = { upload, seeds: item.seeds, who: item.who };
        } else if (item.kind === 'finish') {
          if (begun !== undefined) await finish(begun.upload, begun.seeds, begun.who);
          begun = undefined;
        } else {
          const name = item.deletes ? 'deleteVersion' : 'withdrawVersion';
          await one.request(name, { token: people[0]?.token, params: { name: 'debian', version: item.which + 1 } });
        }
        const { problems } = await checkRepository(one.repository);
        expect(problems, JSON.stringify(item)).toEqual([]);
      }
      const open: Upload[] = await one.repository.catalogue.uploads.openUploads();
      for (const { id } of open) await one.repository.catalogue.uploads.removeUpload(id);
      one.clock.advance(51);
      await collectGarbage(one.repository, { graceSeconds: 0 });
      const { problems, orphans } = await checkRepository(one.repository);
      expect([problems, orphans]).toEqual([[], []]);
      await one.close();
    }),
    { numRuns: 12 },
  );
}, 180_000);
