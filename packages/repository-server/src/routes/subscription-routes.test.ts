import { ROUTES, type RouteName, type RouteSpec } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openSubscriber, SUBSCRIPTION, type Subscriber } from '../testing/test-subscriber.js';
import { TestBackup } from '../testing/test-backup.js';
import { newKey, type TestPerson, type TestReply } from '../testing/test-repository.js';

let world: Subscriber;
let backup: TestBackup;
beforeEach(async () => {
  world = await openSubscriber();
  backup = world.backup;
});
afterEach(() => world.server.close());

const answer = (reply: TestReply): unknown[] => [reply.status, reply.json()['code']];
/** The same person on another machine. */
const secondDevice = async (): Promise<TestPerson> => {
  const device = newKey();
  const deviceId = await world.server.registerDevice({ ...world.person, device });
  return { ...world.person, device, deviceId, token: await world.server.deviceLogin(device) };
};
const elsewhere = async (): Promise<TestBackup> =>
  new TestBackup(world.server, await secondDevice(), {
    subscription: SUBSCRIPTION,
    writtenBy: world.version,
    base: world.base,
  });
const listed = async (person = world.person): Promise<Record<string, unknown>[]> => {
  const reply = await world.server.request('subscriptions', { token: person.token });
  return reply.json() as unknown as Record<string, unknown>[];
};
const beat = (of: TestBackup, unsavedBytes = 0, lease = of.lease): Promise<TestReply> =>
  of.request('heartbeat', {
    params: { lease },
    body: { unsavedBytes, isRunning: true, basedOn: of.head?.number ?? null },
  });

describe('subscriptions', () => {
  test('creating one again is no error; its id is not good for another appliance, and a stranger sees none of it', async () => {
    expect((await backup.create()).status).toBe(200);
    expect(await listed()).toMatchObject([
      { subscription: SUBSCRIPTION, appliance: 'debian', deletedAt: null, head: null },
    ]);
    const sam = await world.server.join('sam', 'user', [
      { name: 'debian', access: 'use' },
      { name: 'tiny', access: 'use' },
    ]);
    expect(await listed(sam)).toEqual([]);
    const his = new TestBackup(world.server, sam, { subscription: SUBSCRIPTION, writtenBy: world.version });
    expect(answer(await his.take())).toEqual([404, 'not-found']);
    expect((await his.create()).status).toBe(200);
    expect(answer(await his.create('tiny'))).toEqual([409, 'exists']);
    expect(answer(await backup.create('tiny'))).toEqual([404, 'not-found']);
  });
  test('deleted it is read, not written, and comes back as it was', async () => {
    await backup.save({
      plan: [1],
      change: (made) => ({ ...made, disks: made.disks.map((disk) => ({ ...disk, base: null })) }),
    });
    expect((await backup.request('deleteSubscription')).status).toBe(200);
    expect(await listed()).toMatchObject([{ deletedAt: world.server.clock.nowSeconds() }]);
    expect(answer(await backup.take())).toEqual([404, 'not-found']);
    expect(answer(await beat(backup))).toEqual([404, 'not-found']);
    expect(answer(await backup.create())).toEqual([409, 'exists']);
    expect((await backup.request('snapshots')).status).toBe(200);
    expect((await backup.request('restoreSubscription')).status).toBe(200);
    expect(await listed()).toMatchObject([{ deletedAt: null, head: { number: 1 } }]);
    expect((await beat(backup)).status).toBe(200);
  });
});

describe('the lease', () => {
  test('numbers grow with each taking, also by the same device', async () => {
    expect(backup.lease).toBe(1);
    await backup.take();
    expect(backup.lease).toBe(2);
    expect(answer(await beat(backup, 0, 1))).toEqual([409, 'lease-lost']);
    expect((await beat(backup)).status).toBe(200);
  });
  test('held by another device it says where, since when and how much is not saved; stealing takes it', async () => {
    await beat(backup, 12_345);
    const takenAt = world.server.clock.nowSeconds();
    world.server.clock.advance(5);
    const other = await elsewhere();
    const refused = await other.take();
    expect(refused.json()).toMatchObject({
      code: 'lease-held',
      data: {
        device: world.person.deviceId,
        deviceName: 'test device',
        takenAt,
        unsavedBytes: 12_345,
        isExpired: false,
      },
    });
    expect(refused.status).toBe(409);
    expect((await other.take('steal')).status).toBe(200);
    expect(other.lease).toBe(2);
    expect(answer(await beat(backup))).toEqual([409, 'lease-lost']);
    expect(answer(await backup.request('releaseLease', { params: { lease: 1 } }))).toEqual([409, 'lease-lost']);
    expect(await listed()).toMatchObject([{ lease: { lease: 2, isReleased: false } }]);
  });
  test('expired it is free only when nothing was unsaved at the last heartbeat', async () => {
    const other = await elsewhere();
    await beat(backup, 1);
    world.server.clock.advance(120);
    const refused = await other.take();
    expect(refused.json()).toMatchObject({ code: 'lease-held', data: { isExpired: true, unsavedBytes: 1 } });
    await beat(backup, 0);
    expect(answer(await other.take())).toEqual([409, 'lease-held']);
    world.server.clock.advance(119);
    expect(answer(await other.take())).toEqual([409, 'lease-held']);
    world.server.clock.advance(1);
    expect((await other.take()).status).toBe(200);
  });
  test('given back it is free at once, and giving back twice is no error', async () => {
    const other = await elsewhere();
    for (let time = 0; time < 2; time += 1)
      expect((await backup.request('releaseLease', { params: { lease: backup.lease } })).status).toBe(200);
    expect(answer(await beat(backup))).toEqual([409, 'lease-lost']);
    expect((await other.take()).status).toBe(200);
    expect(other.lease).toBe(2);
  });
  test('the lease of another device of the same person is not to be kept alive or given back', async () => {
    const other = await elsewhere();
    expect(answer(await beat(other, 0, backup.lease))).toEqual([409, 'lease-lost']);
    expect(answer(await other.request('releaseLease', { params: { lease: backup.lease } }))).toEqual([
      409,
      'lease-lost',
    ]);
  });
});

test('every route of a subscription says not-found to another person, and not-logged-in to nobody', async () => {
  const sam = await world.server.join('sam', 'user', [{ name: 'debian', access: 'use' }]);
  const params = { subscription: SUBSCRIPTION, lease: 1, number: 1, upload: 'a'.repeat(32) };
  const bodies: Partial<Record<RouteName, unknown>> = {
    takeLease: { mode: 'steal', basedOn: null },
    heartbeat: { unsavedBytes: 0, isRunning: false, basedOn: null },
    openSnapshotUpload: { number: 1, parent: null, lease: 0 },
    uploadSnapshotPart: Buffer.from('x'),
    commitSnapshot: Buffer.from('x'),
  };
  const names = Object.entries<RouteSpec>(ROUTES)
    .filter(([, { path }]) => path.startsWith('/v1/me/subscriptions/:subscription'))
    .map(([name]) => name as RouteName);
  expect(names.length).toBeGreaterThan(15);
  for (const name of names) {
    if (name === 'createSubscription') continue;
    const wanted = new Set([...ROUTES[name].path.matchAll(/:([a-z]+)/g)].map(([, key]) => key));
    const request = {
      params: Object.fromEntries(Object.entries(params).filter(([key]) => wanted.has(key))),
      ...(name === 'uploadSnapshotPart' ? { query: { offset: 0 } } : {}),
      ...(bodies[name] === undefined ? {} : { body: bodies[name] }),
    };
    expect(answer(await world.server.request(name, request)), name).toEqual([401, 'not-logged-in']);
    expect(answer(await world.server.request(name, { ...request, token: sam.token })), name).toEqual([
      404,
      'not-found',
    ]);
  }
});
