import {
  decodeDiskUse,
  decodeVersionManifest,
  type Digest,
  type DiskUse,
  encodeUseRecord,
  openEnvelope,
  PAYLOAD_TYPES,
  sha256,
} from '@collective/shared';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkRepository } from '../repository/check-repository.js';
import { collectGarbage } from '../repository/collector.js';
import { removeTraces, TRACE_VOTES_MAX } from '../repository/boot-traces.js';
import { mergedUseName, useRecordName, useRecordsFolder } from '../storage/blob-names.js';
import { BLOCK_BYTES, TestPublisher } from '../testing/test-publisher.js';
import { type TestPerson, type TestReply, TestRepository } from '../testing/test-repository.js';

let server: TestRepository;
let alice: TestPerson;
let user: TestPerson;
let named: TestPerson;
let stranger: TestPerson;

const DAY_SECONDS = 86_400;
const PLAN = Array.from({ length: 300 }, (_, index) => index + 1);
/** Blocks 10 and 11 have changed places, block 12 is another, block 30 is gone. */
const CHANGED = new Map([
  [10, 12],
  [11, 11],
  [12, 5_000],
  [30, 0],
]);
const NEXT = PLAN.map((seed, index) => CHANGED.get(index) ?? seed);

beforeAll(async () => {
  server = await TestRepository.open({ limits: { sessionTokenSeconds: 200 * DAY_SECONDS } });
  alice = await server.join('alice', 'publisher');
  await server.allow(alice, 'debian');
  const publisher = new TestPublisher(server, alice);
  const one = await publisher.publish({ appliance: 'debian', version: 1, parent: null, plan: PLAN });
  const parent = { version: 1, manifest: sha256(one.file) };
  await publisher.publish({ appliance: 'debian', version: 2, parent, plan: NEXT });
  user = await server.join('ursula', 'user', [{ name: 'debian', access: 'use' }]);
  named = await server.join('nora', 'user', [{ name: 'debian', access: 'use' }]);
  stranger = await server.join('sam', 'user', [{ name: 'nothing-yet', access: 'use' }]);
});
afterAll(() => server.close());

const disk = { name: 'debian', version: 1, disk: 'system' };
const answer = (reply: TestReply): unknown[] => [reply.status, reply.json()['code']];

const rootOf = async (version: number): Promise<Digest> => {
  const reply = await server.request('versionManifest', { token: user.token, params: { name: 'debian', version } });
  const { payload } = openEnvelope(reply.body, { payloadType: PAYLOAD_TYPES.version });
  const root = decodeVersionManifest(payload).disks[0]?.root;
  if (root === null || root === undefined) throw new Error('the version has no disk');
  return root;
};

describe('use of a disk', () => {
  const tell = async (
    token: string | undefined,
    bursts: readonly (readonly number[])[],
    {
      version = 1,
      root,
      on = disk.disk,
    }: { readonly version?: number; readonly root?: Digest; readonly on?: string } = {},
  ): Promise<TestReply> => {
    const record = { version, root: root ?? (await rootOf(version)), blockBytes: BLOCK_BYTES, bursts };
    return server.request('addUseRecord', {
      ...(token === undefined ? {} : { token }),
      params: { ...disk, version, disk: on },
      body: encodeUseRecord(record),
    });
  };
  const ask = async (token: string | undefined, version = 1): Promise<TestReply> =>
    server.request('diskUse', { ...(token === undefined ? {} : { token }), params: { ...disk, version } });
  const useOf = async (version = 1): Promise<DiskUse> => {
    const reply = await ask(user.token, version);
    expect(reply.status).toBe(200);
    return decodeDiskUse(reply.body);
  };
  const countsOf = ({ blocks }: DiskUse): (readonly [number, number])[] =>
    blocks.map(({ blockIndex, records }) => [blockIndex, records]);

  test('is not there before two sessions were told, of which a person has one a day', async () => {
    expect(answer(await ask(user.token))).toEqual([404, 'not-found']);
    expect(
      (
        await tell(user.token, [
          [1, 2],
          [10, 11, 12],
        ])
      ).status,
    ).toBe(200);
    expect(
      (
        await tell(user.token, [
          [1, 2],
          [10, 11, 12],
        ])
      ).status,
    ).toBe(200);
    expect(answer(await ask(user.token))).toEqual([404, 'not-found']);
    expect(
      (
        await tell(alice.token, [
          [1, 3],
          [30, 31],
          [10, 11, 12],
        ])
      ).status,
    ).toBe(200);
    const use = await useOf();
    expect(use).toMatchObject({ version: 1, root: await rootOf(1), records: 2 });
    expect(countsOf(use)).toEqual([1, 10, 11, 12].map((block) => [block, 2]));
    expect(use.groups).toEqual([{ blocks: [10, 11, 12], triggers: 1 }]);
  });

  test('is how many sessions touched a block, and what they touched together', async () => {
    server.clock.advance(DAY_SECONDS);
    expect(
      (
        await tell(user.token, [
          [1, 2],
          [30, 31],
        ])
      ).status,
    ).toBe(200);
    const use = await useOf();
    expect(use.records).toBe(3);
    expect(countsOf(use)).toEqual([[1, 3], ...[2, 10, 11, 12, 30, 31].map((block) => [block, 2])]);
    expect(use.groups.map(({ blocks }) => blocks)).toEqual([
      [10, 11, 12],
      [30, 31],
    ]);
  });

  test('is told and asked by who may use the appliance, and by nobody else', async () => {
    for (const reply of [await ask(undefined), await tell(undefined, [[1]])]) expect(reply.status).toBe(401);
    for (const reply of [await ask('no token'), await tell('no token', [[1]])]) expect(reply.status).toBe(401);
    for (const reply of [await ask(stranger.token), await tell(stranger.token, [[1]])])
      expect(answer(reply)).toEqual([404, 'not-found']);
    for (const person of [alice, user, named]) expect((await ask(person.token)).status).toBe(200);
    expect((await useOf()).records).toBe(3);
  });

  test('is of the disk that it says, and of blocks that it has', async () => {
    expect(answer(await tell(user.token, [[1]], { root: await rootOf(2) }))).toEqual([400, 'bad-request']);
    expect(answer(await tell(user.token, [[1], [300]]))).toEqual([400, 'bad-request']);
    expect(answer(await tell(user.token, [[1]], { on: 'other' }))).toEqual([404, 'not-found']);
    const garbage = { token: user.token, params: disk, body: Buffer.from('no record') };
    expect((await server.request('addUseRecord', garbage)).status).toBe(400);
    expect((await useOf()).records).toBe(3);
  });

  test('is inherited by the next version, at the places where its blocks lie now, until two have told of that', async () => {
    const before = await useOf(2);
    expect(before).toMatchObject({ version: 2, root: await rootOf(2), records: 3 });
    expect(countsOf(before)).toEqual([[1, 3], ...[2, 10, 11, 12, 31].map((block) => [block, 2])]);
    // Block 12 changed and keeps its place.
    expect(before.groups).toEqual([{ blocks: [11, 10, 12], triggers: 1 }]);
    expect((await tell(user.token, [[1], [7, 8]], { version: 2 })).status).toBe(200);
    expect(await useOf(2)).toEqual(before);
    expect((await tell(alice.token, [[1], [7, 8]], { version: 2 })).status).toBe(200);
    expect(countsOf(await useOf(2))).toEqual([1, 7, 8].map((block) => [block, 2]));
  });

  test('is of as many sessions as there is room for, and a damaged record does not count', async () => {
    for (let day = 0; day < TRACE_VOTES_MAX + 4; day += 1) {
      server.clock.advance(DAY_SECONDS);
      expect((await tell(user.token, [[1], [40, 41]])).status).toBe(200);
    }
    const { blobStore } = server.repository;
    const names = (await blobStore.list(useRecordsFolder('debian', 1, 'system'))).filter((name) => name !== 'merged');
    expect(names).toHaveLength(TRACE_VOTES_MAX);
    expect((await useOf()).records).toBe(TRACE_VOTES_MAX);
    for (const record of names.slice(0, 2))
      await blobStore.replace(useRecordName('debian', 1, { disk: 'system', record }), Buffer.from('damaged'));
    // Takes the place of today's, which may be one of the two.
    expect((await tell(user.token, [[1], [40, 41]])).status).toBe(200);
    expect((await useOf()).records).toBeLessThan(TRACE_VOTES_MAX);
  });

  test('that is damaged is as none, until somebody tells again', async () => {
    const { blobStore } = server.repository;
    await blobStore.replace(mergedUseName('debian', 1, 'system'), Buffer.from('damaged'));
    expect(answer(await ask(user.token))).toEqual([404, 'not-found']);
    expect((await tell(user.token, [[1], [40, 41]])).status).toBe(200);
    expect((await useOf()).groups).toContainEqual({ blocks: [40, 41], triggers: 1 });
  });

  test('is left alone by the collector, and no check finds fault with it', async () => {
    await collectGarbage(server.repository, { graceSeconds: 0 });
    expect((await ask(user.token)).status).toBe(200);
    expect(await checkRepository(server.repository)).toMatchObject({ problems: [], orphans: [] });
  });

  test('goes with its version', async () => {
    await removeTraces(server.repository.blobStore, 'debian', 1);
    expect(await server.repository.blobStore.list(useRecordsFolder('debian', 1, 'system'))).toEqual([]);
    expect(answer(await ask(user.token))).toEqual([404, 'not-found']);
  });
});
