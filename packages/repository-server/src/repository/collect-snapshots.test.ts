/** Retention and the collector over persons' data: what goes, when, and what never does. */
import { CollectiveError, decodeSnapshotObject, encodeSnapshotObject } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { snapshotDataName, uploadName, UPLOADS_FOLDER } from '../storage/blob-names.js';
import { privateChunkOf, TestBackup } from '../testing/test-backup.js';
import { chunkOf } from '../testing/test-publisher.js';
import {
  openSubscriber,
  publishWithUserDisk,
  saveMany,
  type Subscriber,
  SUBSCRIPTION,
  written,
} from '../testing/test-subscriber.js';
import { newKey, type TestReply } from '../testing/test-repository.js';
import { checkRepository } from './check-repository.js';
import { collectGarbage } from './collector.js';
import { assembleRepository } from './repository.js';
import { parseRetention, type Retention, type RetentionWords } from './retention-file.js';

let world: Subscriber;
let backup: TestBackup;
beforeEach(async () => {
  world = await openSubscriber();
  backup = world.backup;
});
afterEach(async () => {
  expect((await checkRepository(world.server.repository)).problems).toEqual([]);
  await world.server.close();
});

const DAY = 86_400;
const of = () => ({ account: world.person.account, subscription: SUBSCRIPTION });
const gc = (graceSeconds = 30 * DAY) => collectGarbage(world.server.repository, { graceSeconds });
const dataOf = async (number: number): Promise<Buffer | undefined> =>
  world.server.repository.blobStore.read(snapshotDataName(of(), number));
type Listed = Record<string, unknown>;
/** The token of the start is good for an hour only. */
const later = async (seconds: number): Promise<void> => {
  world.server.clock.advance(seconds);
  Object.assign(backup, { person: { ...backup.person, token: await world.server.deviceLogin(world.person.device) } });
};
const list = async (which = 'all'): Promise<Listed[]> =>
  (await backup.request('snapshots', { query: { which } })).json() as unknown as Listed[];
const numbers = async (which: string): Promise<unknown[]> => (await list(which)).map(({ number }) => number);
const answer = (reply: TestReply): unknown[] => [reply.status, reply.json()['code']];

describe('thinning', () => {
  test('a commit marks what retention does not keep: deleted, with a time, and still readable', async () => {
    await saveMany(world, 12);
    await later(2 * DAY);
    await backup.take();
    await backup.save({ plan: written({ 3: 100, 200: 5_000 }) });
    expect(await numbers('deleted')).toEqual([3, 2, 1]);
    expect(await numbers('kept')).toHaveLength(10);
    expect((await list('deleted'))[0]?.['deletedAt']).toBe(world.server.clock.nowSeconds());
    expect((await backup.request('snapshotData', { params: { number: 1 } })).status).toBe(200);
  });
  test('the collector thins who commits no more; pinned ones stay; what is brought back is pinned', async () => {
    await saveMany(world, 13);
    await backup.request('pinSnapshot', { params: { number: 2 } });
    await later(2 * DAY);
    expect(await gc()).toMatchObject({ snapshotsThinned: 2, snapshotsForgotten: 0, objectsDeleted: 0 });
    expect(await numbers('deleted')).toEqual([3, 1]);
    expect((await backup.request('restoreSnapshot', { params: { number: 1 } })).status).toBe(200);
    expect(answer(await backup.request('pinSnapshot', { params: { number: 3 } }))).toEqual([404, 'not-found']);
    expect(await gc()).toMatchObject({ snapshotsThinned: 0 });
    expect((await list('kept')).filter(({ pinned }) => pinned === true).map(({ number }) => number)).toEqual([2, 1]);
    await backup.request('unpinSnapshot', { params: { number: 1 } });
    expect(await gc()).toMatchObject({ snapshotsThinned: 1 });
  });
});

describe('what a device is based on', () => {
  const MONTHS = 100 * DAY;
  const secondDevice = async (): Promise<TestBackup> => {
    const device = newKey();
    const deviceId = await world.server.registerDevice({ ...world.person, device });
    const person = { ...world.person, device, deviceId, token: await world.server.deviceLogin(device) };
    return new TestBackup(world.server, person, {
      subscription: SUBSCRIPTION,
      writtenBy: world.version,
      base: world.base,
    });
  };
  test('stays as long as the device is away, and goes when the device is revoked or says that it has moved on', async () => {
    await saveMany(world, 13);
    const laptop = await secondDevice();
    await laptop.request('takeLease', { body: { mode: 'steal', basedOn: 2 } });
    await backup.take('steal');
    await later(MONTHS);
    expect(await gc()).toMatchObject({ snapshotsThinned: 2 });
    expect(await numbers('deleted')).toEqual([3, 1]);
    await later(MONTHS);
    expect(await gc()).toMatchObject({ snapshotsForgotten: 2 });
    expect(await numbers('kept')).toContain(2);
    expect((await backup.request('snapshotData', { params: { number: 2 } })).status).toBe(200);

    await world.server.request('revokeDevice', {
      token: backup.person.token,
      params: { device: laptop.person.deviceId },
    });
    expect(await gc()).toMatchObject({ snapshotsThinned: 1 });
    expect(await numbers('deleted')).toEqual([2]);
  });
  test('is kept from the moment at which it says so, also when that has been deleted: and not longer than it is said', async () => {
    await saveMany(world, 13);
    await later(MONTHS);
    await gc();
    expect(await numbers('deleted')).toEqual([3, 2, 1]);
    const laptop = await secondDevice();
    const say = async (basedOn: number): Promise<unknown> =>
      (await laptop.request('takeLease', { body: { mode: 'steal', basedOn } })).status;
    expect(await say(2)).toBe(200);
    await later(MONTHS);
    expect(await gc()).toMatchObject({ snapshotsForgotten: 2 });
    expect(await numbers('deleted')).toEqual([2]);
    Object.assign(laptop, {
      person: { ...laptop.person, token: await world.server.deviceLogin(laptop.person.device) },
    });
    expect(await say(13)).toBe(200);
    expect(await gc()).toMatchObject({ snapshotsForgotten: 1 });
  });
  test('is what it has committed, also when a heartbeat of before comes after it', async () => {
    await saveMany(world, 5);
    const { deviceId } = backup.person;
    for (const basedOn of [4, null]) {
      const body = { unsavedBytes: 0, isRunning: true, basedOn };
      expect((await backup.request('heartbeat', { params: { lease: backup.lease }, body })).status).toBe(200);
    }
    expect(await world.server.repository.catalogue.subscriptions.deviceBases(of())).toEqual([
      { device: deviceId, number: 5 },
    ]);
  });
});

describe('the setting of the administrator', () => {
  const set = (words: Partial<RetentionWords>): Retention =>
    parseRetention({ keep: '1h:all,1d:5m,rest:1d', newest: 10, deleted: '30d', ...words });
  test('counts from the next commit on, and the collector thins by it too', async () => {
    let retention: Retention | undefined = set({ keep: '7d:all,rest:none' });
    await world.server.close();
    world = await openSubscriber({ readRetention: () => Promise.resolve(retention) });
    backup = world.backup;
    await saveMany(world, 20);
    await later(2 * DAY);
    await backup.take();
    await backup.save({ plan: written({ 3: 100 }) });
    expect(await numbers('deleted')).toEqual([]);
    retention = set({ newest: 15 });
    await backup.save({ plan: written({ 3: 101 }) });
    expect(await numbers('kept')).toHaveLength(15);
    retention = undefined;
    expect(await gc()).toMatchObject({ snapshotsThinned: 5 });
  });
  test('a setting that cannot be read: the snapshot is taken in, nothing is thinned, and the collector says so', async () => {
    const bad = new CollectiveError('malformed', 'server/retention.json: set it anew');
    await world.server.close();
    world = await openSubscriber({ readRetention: () => Promise.reject(bad) });
    backup = world.backup;
    await saveMany(world, 12);
    await later(2 * DAY);
    await backup.take();
    await backup.save({ plan: written({ 3: 100 }) });
    expect(await numbers('kept')).toHaveLength(13);
    await expect(gc(0)).rejects.toMatchObject({ code: 'malformed' });
    expect(await numbers('deleted')).toEqual([]);
  });
});

describe('what was deleted', () => {
  test('stays for the grace time, then its object goes unless a kept snapshot lists it; its manifest stays', async () => {
    await saveMany(world, 13);
    // The head lists none but its own object: what the others added is theirs alone.
    const { manifest } = backup.make({ plan: written({ 9: 900 }), objects: [] });
    expect(manifest.objects).toEqual([14]);
    await backup.save({ plan: written({ 9: 900 }), objects: [] });
    await later(2 * DAY);
    await gc();
    expect(await numbers('deleted')).toEqual([4, 3, 2, 1]);
    await later(30 * DAY - 1);
    expect(await gc()).toMatchObject({ snapshotsForgotten: 0, objectsDeleted: 0 });
    await later(1);
    // Snapshot 5 lists the objects of 1 to 4 too: they stay, without what only 1 to 4 named.
    const result = await gc();
    expect(result).toMatchObject({ snapshotsForgotten: 4, objectsDeleted: 0, objectsRewritten: 4 });
    expect(await numbers('all')).not.toContain(1);
    expect(answer(await backup.request('restoreSnapshot', { params: { number: 1 } }))).toEqual([404, 'not-found']);
    expect((await backup.request('snapshotManifest', { params: { number: 1 } })).status).toBe(200);
    expect(decodeSnapshotObject((await dataOf(1)) ?? Buffer.alloc(0)).map(({ digest }) => digest)).toContain(
      privateChunkOf(5_000).digest,
    );
    expect(decodeSnapshotObject((await dataOf(2)) ?? Buffer.alloc(0))).toEqual([]);
  });
  test('a subscription goes whole after the grace time: list, objects and what it named of the public chunks', async () => {
    await backup.save({ plan: written({ 3: 1, 4: 'p2000' }) });
    const { manifest } = world.version;
    await publishWithUserDisk(world.server, world.alice, 2, { version: 1, manifest }, [7]);
    const params = { name: 'debian', version: 1 };
    await world.server.request('deleteVersion', { token: world.alice.token, params });
    await later(31 * DAY);
    expect(await gc()).toMatchObject({ versionsForgotten: 1, chunksDeleted: 0 });
    await backup.request('deleteSubscription');
    await later(30 * DAY - 1);
    expect(await gc()).toMatchObject({ snapshotsForgotten: 0 });
    await later(1);
    expect(await gc()).toMatchObject({ snapshotsForgotten: 1, objectsDeleted: 1 });
    expect(await dataOf(1)).toBeUndefined();
    expect(await world.server.repository.blobStore.readChunk(chunkOf(2_000).digest)).toBeUndefined();
    expect((await world.server.request('subscriptions', { token: backup.person.token })).json()).toEqual([]);
    expect(answer(await backup.create())).toEqual([409, 'exists']);
    expect(answer(await backup.request('restoreSubscription'))).toEqual([404, 'not-found']);
  });
});

test('the version that a user disk began from is deleted and collected: no byte of the snapshot changes', async () => {
  await backup.save({ plan: written({ 3: 1 }) });
  const { manifest } = world.version;
  await publishWithUserDisk(world.server, world.alice, 2, { version: 1, manifest }, [7]);
  const params = { name: 'debian', version: 1 };
  await world.server.request('deleteVersion', { token: world.alice.token, params });
  world.server.clock.advance(1);
  expect(await gc(0)).toMatchObject({ versionsForgotten: 1, chunksDeleted: 0 });
  expect(await world.server.repository.blobStore.readChunk(chunkOf(1_001).digest)).toBeDefined();
  await backup.take();
  await backup.save({ plan: written({ 3: 2 }) });
});

test('a reader that goes on with the object that it had begun is told that it has been rewritten', async () => {
  await saveMany(world, 12);
  const first = await backup.request('snapshotData', { params: { number: 2 }, headers: { range: 'bytes=0-99' } });
  const { etag } = first.headers;
  await later(2 * DAY);
  await gc();
  await later(30 * DAY);
  expect(await gc()).toMatchObject({ objectsRewritten: 2 });
  const read = (headers: Record<string, string>) =>
    backup.request('snapshotData', { params: { number: 2 }, headers: { range: 'bytes=0-', ...headers } });
  expect(answer(await read({ 'if-match': String(etag) }))).toEqual([409, 'conflict']);
  const now = await read({});
  expect([now.status, now.body.equals(encodeSnapshotObject([]))]).toEqual([200, true]);
});

test('uploads that have expired are ended, their files too, and files that no upload has', async () => {
  const { blobStore, catalogue } = world.server.repository;
  const made = backup.make({ plan: written({ 3: 1 }) });
  const upload = String((await backup.open(made.manifest)).json()['upload']);
  await backup.send(upload, made.data);
  await blobStore.writePart(uploadName('f'.repeat(32)), Buffer.from('x'), 0);
  await gc();
  expect(await blobStore.list(UPLOADS_FOLDER)).toEqual([upload]);
  await later(2 * DAY);
  await gc();
  expect([await blobStore.list(UPLOADS_FOLDER), await catalogue.subscriptions.snapshotUploadIds()]).toEqual([
    [],
    new Set(),
  ]);
});

test('the collector stops when a snapshot cannot be read: what it names is not known', async () => {
  await backup.save({ plan: written({ 3: 1 }) });
  const { blobStore } = world.server.repository;
  const name = snapshotDataName(of(), 1);
  const whole = (await dataOf(1)) ?? Buffer.alloc(0);
  await blobStore.replace(name, whole.subarray(0, whole.length - 1));
  await expect(gc(0)).rejects.toMatchObject({ code: 'malformed' });
  expect((await checkRepository(world.server.repository)).problems.map(({ kind }) => kind)).toEqual([
    'object',
    'snapshot',
  ]);
  await blobStore.remove(name);
  await expect(gc(0)).rejects.toMatchObject({ code: 'block-missing' });
  await blobStore.replace(name, whole);
  const restarted = await assembleRepository(world.server.repository);
  expect(restarted.problems).toEqual([]);
});
