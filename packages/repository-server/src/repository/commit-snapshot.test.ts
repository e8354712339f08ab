/** The commit of snapshots through the routes: what is taken, what is refused, and that a refusal leaves nothing. */
import { encodeChunk, sha256, type SnapshotManifest } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { snapshotDataName, subscriptionFolder } from '../storage/blob-names.js';
import { privateChunkOf, signSnapshot, TestBackup, userMapOf, type UserPlan } from '../testing/test-backup.js';
import { BLOCK_BYTES, chunkOf, type DiskPlan, mapOf } from '../testing/test-publisher.js';
import {
  INITIAL,
  openSubscriber,
  publishWithUserDisk,
  publishWithUserDisks,
  type Subscriber,
  SUBSCRIPTION,
  written,
} from '../testing/test-subscriber.js';
import { newKey, type TestReply } from '../testing/test-repository.js';
import { checkRepository } from './check-repository.js';

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

const answer = ({ reply }: { readonly reply: TestReply }): unknown[] => [reply.status, reply.json()['code']];
const of = () => ({ account: world.person.account, subscription: SUBSCRIPTION });
const stored = (): Promise<string[]> => world.server.repository.blobStore.list(subscriptionFolder(of()));
const elsewhere = async (): Promise<TestBackup> => {
  const device = newKey();
  const deviceId = await world.server.registerDevice({ ...world.person, device });
  const person = { ...world.person, device, deviceId, token: await world.server.deviceLogin(device) };
  const { subscription } = backup;
  return new TestBackup(world.server, person, { subscription, writtenBy: world.version, base: world.base });
};
const expectRefused = async (made: ReturnType<TestBackup['make']>, expected: unknown[]): Promise<void> => {
  const before = await stored();
  expect(answer(await backup.upload(made))).toEqual(expected);
  expect(await stored()).toEqual(before);
};

describe('a snapshot', () => {
  test('is read back as it was committed: manifest, object and the state of the subscription', async () => {
    const first = await backup.save({ plan: written({ 3: 1, 200: 2, 299: 3 }), reason: 'start' });
    world.server.clock.advance(30);
    const second = await backup.save({ plan: written({ 3: 4, 200: 2, 299: 3 }) });
    const manifest = await backup.request('snapshotManifest', { params: { number: 2 } });
    expect(manifest.body.equals(second.file)).toBe(true);
    const data = await backup.request('snapshotData', { params: { number: 1 } });
    expect([data.status, data.body.equals(first.data)]).toEqual([200, true]);
    // One block, one leaf, one root.
    expect(second.data.length).toBeLessThan(first.data.length);
    const list = (await backup.request('snapshots')).json() as unknown as Record<string, unknown>[];
    expect(list).toMatchObject([
      { number: 2, reason: 'periodic', addedBytes: second.data.length, pinned: false, deletedAt: null },
      { number: 1, reason: 'start', manifest: sha256(first.file) },
    ]);
  });
  test('that adds nothing has no object, and an undo lists what the old one lists', async () => {
    const first = await backup.save({ plan: written({ 1: 1 }) });
    await backup.save({ plan: written({ 1: 2 }) });
    const undone = backup.make({ plan: written({ 1: 1 }), reason: 'undo', objects: first.manifest.objects });
    expect(undone.data.length).toBe(0);
    // Of a commit under this number that a kill ended before its manifest.
    await world.server.repository.blobStore.replace(snapshotDataName(of(), 3), first.data);
    expect(answer(await backup.upload(undone))).toEqual([201, undefined]);
    expect((await backup.request('snapshotData', { params: { number: 3 } })).status).toBe(404);
    await backup.save({ plan: written({ 1: 1, 7: 9 }) });
  });
  test('committed again, by itself or from another session, gives the same answer', async () => {
    const made = backup.make({ plan: written({ 1: 1 }) });
    const { reply, upload } = await backup.upload(made);
    world.server.clock.advance(50);
    const again = await backup.commit(upload, made.file);
    expect([again.status, again.body]).toEqual([201, reply.body]);
    const other = backup.make({ plan: written({ 1: 2 }) });
    expect(answer({ reply: await backup.commit(upload, other.file) })).toEqual([409, 'conflict']);
  });
  test('of two that follow one head the second is refused and told the head', async () => {
    await backup.save({ plan: written({ 1: 1 }) });
    const change = (made: SnapshotManifest): SnapshotManifest => ({ ...made, number: 3, objects: [1, 3] });
    const one = backup.make({ plan: written({ 1: 2 }), change });
    const upload = String((await backup.open(one.manifest)).json()['upload']);
    await backup.send(upload, one.data);
    const winner = await backup.save({ plan: written({ 1: 3 }) });
    const refused = await backup.commit(upload, one.file);
    expect(refused.json()).toMatchObject({ code: 'conflict', data: { number: 2, manifest: sha256(winner.file) } });
    expect(answer({ reply: await backup.open(one.manifest) })).toEqual([409, 'conflict']);
  });
});

describe('the user disks of several versions', () => {
  const EXTRA = [7, 0, 8];
  const extraPlan: UserPlan = ['inherit', 'inherit', 5];
  const { root, pages } = userMapOf(extraPlan).build();
  const extra = (base: ReturnType<typeof mapOf>): SnapshotManifest['disks'][number] => ({
    ...{ name: 'extra', kind: 'user', bus: 'virtio', diskBytes: 3 * BLOCK_BYTES, blockBytes: BLOCK_BYTES },
    ...{ root, base: base.build().root },
  });
  const publish = async (number: number, parent: Subscriber['version'], plans: Record<string, DiskPlan>) =>
    publishWithUserDisks(world.server, world.alice, { number, parent, plans });

  test('one that a version brings is taken in, and carried along by the next that does not have it', async () => {
    const second = await publish(2, world.version, { user: INITIAL, extra: EXTRA });
    const third = await publish(3, second, { user: INITIAL });
    await backup.save({ plan: written({ 3: 1 }) });
    const brought = backup.make({
      plan: written({ 3: 2 }),
      change: (made) => ({ ...made, writtenBy: second, disks: [...made.disks, extra(mapOf(EXTRA))] }),
      records: (records) => [
        ...records,
        privateChunkOf(5),
        ...[...pages].map(([digest, page]) => ({ digest, chunk: encodeChunk(page) })),
      ],
    });
    expect(answer(await backup.upload(brought))).toEqual([201, undefined]);
    const carried = (blocks: Record<number, number>) =>
      backup.make({
        plan: written(blocks),
        change: (made) => ({ ...made, writtenBy: third, disks: [...made.disks, extra(mapOf(EXTRA))] }),
      });
    expect(answer(await backup.upload(carried({ 3: 3 })))).toEqual([201, undefined]);
    expect(answer(await backup.upload(carried({ 3: 4 })))).toEqual([201, undefined]);
    // Without the object that holds it, it is not there.
    const lost = backup.make({
      plan: written({ 3: 5 }),
      objects: [1],
      change: (made) => ({ ...made, writtenBy: third, disks: [...made.disks, extra(mapOf(EXTRA))] }),
    });
    await expectRefused(lost, [404, 'block-missing']);
  });
  test('one that begins from no version of the appliance is refused', async () => {
    const change = (made: SnapshotManifest): SnapshotManifest => ({
      ...made,
      disks: [...made.disks, extra(mapOf(EXTRA))],
    });
    await expectRefused(backup.make({ plan: written({ 3: 1 }), change }), [400, 'bad-request']);
  });
});

describe('a commit is refused, and nothing is there afterwards,', () => {
  test('when a private chunk, a page or a public block is missing, or has another length', async () => {
    const plan = written({ 3: 1, 4: 2 });
    const without = (digest: string) => (records: readonly { digest: string; chunk: Buffer }[]) =>
      records.filter((record) => record.digest !== digest) as never;
    await expectRefused(backup.make({ plan, records: without(privateChunkOf(2).digest) }), [404, 'block-missing']);
    await expectRefused(backup.make({ plan, records: without(userMapOf(plan).build().root) }), [404, 'block-missing']);
    await expectRefused(backup.make({ plan: written({ 3: 'p77' }) }), [404, 'block-missing']);
    const short = { digest: privateChunkOf(2).digest, chunk: encodeChunk(Buffer.from('a page of another kind')) };
    await expectRefused(
      backup.make({ plan, records: (records) => [...records.filter(({ digest }) => digest !== short.digest), short] }),
      [400, 'digest-mismatch'],
    );
  });
  test('when a chunk of the new object is damaged, or the object is cut off', async () => {
    const made = backup.make({ plan: written({ 3: 1 }) });
    const spoilt = Buffer.from(made.data);
    spoilt[100] = (spoilt[100] ?? 0) ^ 1;
    expect(answer(await backup.upload({ ...made, data: spoilt }))[0]).toBe(400);
    expect(await stored()).toEqual(['subscription']);
    const { status } = await backup.send(
      String((await backup.open(made.manifest)).json()['upload']),
      Buffer.from('more'),
      made.data.length,
    );
    expect(status).toBe(200);
  });
  test('when another key signs, another device is named, or the signature is of other bytes', async () => {
    const made = backup.make({ plan: written({ 3: 1 }) });
    await expectRefused(backup.make({ plan: written({ 3: 1 }), signer: newKey() }), [403, 'untrusted']);
    await expectRefused({ ...made, file: signSnapshot(made.manifest, world.alice.device) }, [403, 'untrusted']);
    const other = { ...made.manifest, device: world.alice.deviceId };
    await expectRefused({ ...made, file: signSnapshot(other, world.person.device) }, [403, 'untrusted']);
    const forged = Buffer.from(made.file.toString('utf8').replace(/"sig":"..../, '"sig":"AAAA'));
    await expectRefused({ ...made, file: forged }, [400, 'bad-signature']);
  });
  test('when its device has been revoked, also while its upload is under way', async () => {
    const other = await elsewhere();
    await other.take('steal');
    const made = other.make({ plan: written({ 3: 1 }) });
    const upload = String((await other.open(made.manifest)).json()['upload']);
    await other.send(upload, made.data);
    const device = { device: other.person.deviceId };
    await world.server.request('revokeDevice', { token: world.person.token, params: device });
    expect(answer({ reply: await backup.commit(upload, made.file) })).toEqual([401, 'revoked']);
    expect(await stored()).toEqual(['subscription']);
  });
  test.each<[string, (manifest: SnapshotManifest) => SnapshotManifest]>([
    ['another subscription', (made) => ({ ...made, subscription: '6'.repeat(32) })],
    ['another appliance', (made) => ({ ...made, writtenBy: { ...made.writtenBy, appliance: 'tiny' } })],
    ['a version that there is not', (made) => ({ ...made, writtenBy: { ...made.writtenBy, version: 9 } })],
    ['another epoch than its chunks', (made) => ({ ...made, epoch: 2 })],
    [
      'a base that is none',
      (made) => ({ ...made, disks: made.disks.map((disk) => ({ ...disk, base: sha256(Buffer.from('x')) })) }),
    ],
    ['no object though there is one', (made) => ({ ...made, objects: [] })],
  ])('when it names %s', async (_name, change) => {
    await expectRefused(backup.make({ plan: written({ 3: 1 }), change }), [400, 'bad-request']);
  });
  test('when it inherits without a base, or lists an object that there is not', async () => {
    const noBase = (made: SnapshotManifest) => ({
      ...made,
      disks: made.disks.map((disk) => ({ ...disk, base: null })),
    });
    await expectRefused(backup.make({ plan: written({ 3: 1 }), change: noBase }), [400, 'malformed']);
    await backup.save({ plan: written({ 3: 1 }) });
    await backup.save({ plan: written({ 3: 1 }) });
    await expectRefused(backup.make({ plan: written({ 3: 2 }), objects: [1, 2] }), [404, 'block-missing']);
  });
  test('when it leaves out an object that still holds what it names', async () => {
    await backup.save({ plan: written({ 3: 1, 200: 2 }) });
    await expectRefused(backup.make({ plan: written({ 3: 4, 200: 2 }), objects: [] }), [404, 'block-missing']);
  });
});

describe('leases and commits', () => {
  test('under a lease that another device has taken: lease-lost, at once and at the commit', async () => {
    const made = backup.make({ plan: written({ 3: 1 }) });
    const upload = String((await backup.open(made.manifest)).json()['upload']);
    await backup.send(upload, made.data);
    const other = await elsewhere();
    await other.take('steal');
    expect(answer({ reply: await backup.commit(upload, made.file) })).toEqual([409, 'lease-lost']);
    expect(answer({ reply: await backup.open(made.manifest) })).toEqual([409, 'lease-lost']);
    await other.save({ plan: written({ 3: 5 }) });
  });
  test('disconnected (lease 0): taken on the head while no other device is at work', async () => {
    const other = await elsewhere();
    const away = other.make({ plan: written({ 3: 1 }), lease: 0 });
    expect(answer(await other.upload(away))).toEqual([409, 'lease-held']);
    world.server.clock.advance(120);
    expect(answer(await other.upload(away))).toEqual([201, undefined]);
    expect(answer(await backup.upload(backup.make({ plan: written({ 3: 2 }) })))).toEqual([409, 'conflict']);
  });
});

describe('public blocks and bases', () => {
  test('a block that equals a public one is named by it; a version that goes leaves what a snapshot names', async () => {
    await backup.save({ plan: written({ 3: 'p2000' }) });
    const next = await publishWithUserDisk(
      world.server,
      world.alice,
      2,
      { version: 1, manifest: world.version.manifest },
      [7],
    );
    expect(next.version.version).toBe(2);
    const params = { name: 'debian', version: 1 };
    expect((await world.server.request('deleteVersion', { token: world.alice.token, params })).status).toBe(200);
    // The base of the head is one, whatever became of its version.
    await backup.save({ plan: written({ 3: 'p2000', 9: 1 }) });
    expect(await world.server.repository.blobStore.readChunk(chunkOf(2_000).digest)).toBeDefined();
  });
  test('access that was taken away does not keep what was written from being saved', async () => {
    await backup.save({ plan: written({ 3: 1 }) });
    await world.server.repository.catalogue.people.removeAccess('ursula', 'debian');
    await backup.save({ plan: written({ 3: 2 }) });
  });
});

test('the object of a snapshot has the name of its number, and the upload leaves no file', async () => {
  await backup.save({ plan: written({ 3: 1 }) });
  const { blobStore } = world.server.repository;
  expect(await blobStore.list(subscriptionFolder(of()))).toEqual(['1', 'subscription']);
  expect((await blobStore.open(snapshotDataName(of(), 1)))?.byteLength).toBeGreaterThan(0);
  expect(await blobStore.list('uploads' as never)).toEqual([]);
});
