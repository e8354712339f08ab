import {
  decodeBootTrace,
  decodeVersionManifest,
  type Digest,
  encodeBootTrace,
  openEnvelope,
  PAYLOAD_TYPES,
  sha256,
} from '@collective/shared';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { removeTraces, TRACE_VOTES_MAX } from '../repository/boot-traces.js';
import { traceVoteName, traceVotesFolder } from '../storage/blob-names.js';
import { BLOCK_BYTES, chunkOf, TestPublisher } from '../testing/test-publisher.js';
import { type TestPerson, type TestReply, TestRepository } from '../testing/test-repository.js';

let server: TestRepository;
let alice: TestPerson;
let user: TestPerson;
let stranger: TestPerson;

const DAY_SECONDS = 86_400;
const PLAN = Array.from({ length: 300 }, (_, index) => index + 1);
const NEXT = PLAN.map((seed, index) => (index === 5 ? 5_000 : seed));

beforeAll(async () => {
  server = await TestRepository.open({ limits: { sessionTokenSeconds: 100 * DAY_SECONDS } });
  alice = await server.join('alice', 'publisher');
  await server.allow(alice, 'debian');
  const publisher = new TestPublisher(server, alice);
  const one = await publisher.publish({ appliance: 'debian', version: 1, parent: null, plan: PLAN });
  const parent = { version: 1, manifest: sha256(one.file) };
  let last = await publisher.publish({ appliance: 'debian', version: 2, parent, plan: NEXT });
  for (const version of [3, 4]) {
    const before = { version: version - 1, manifest: sha256(last.file) };
    const plan = NEXT.map((seed, index) => (index === version * 10 ? 6_000 + version : seed));
    last = await publisher.publish({ appliance: 'debian', version, parent: before, plan });
  }
  user = await server.join('ursula', 'user', [{ name: 'debian', access: 'use' }]);
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

describe('boot traces', () => {
  const vote = async (
    person: TestPerson,
    blocks: readonly number[],
    change: { readonly version?: number; readonly root?: Digest; readonly kind?: 'publication' | 'inherited' } = {},
  ): Promise<TestReply> => {
    const version = change.version ?? 1;
    const touches = blocks.map((blockIndex, at) => ({ blockIndex, afterMs: at, phase: 0 as const, chunkBytes: 0 }));
    const bytes = encodeBootTrace({
      version,
      root: change.root ?? (await rootOf(version)),
      blockBytes: BLOCK_BYTES,
      touches,
    });
    const query = change.kind === undefined ? {} : { query: { kind: change.kind } };
    return server.request('addBootTrace', { token: person.token, params: { ...disk, version }, ...query, body: bytes });
  };
  const blocksFor = async (version: number): Promise<number[]> => {
    const reply = await server.request('bootTrace', { token: user.token, params: { ...disk, version } });
    expect(reply.status).toBe(200);
    return decodeBootTrace(reply.body).touches.map(({ blockIndex }) => blockIndex);
  };

  test('are not there before somebody has told of a boot', async () => {
    expect(answer(await server.request('bootTrace', { token: user.token, params: disk }))).toEqual([404, 'not-found']);
  });

  test('are what most votes say, of which a person has one a day', async () => {
    expect((await vote(user, [9, 5])).status).toBe(200);
    expect(await blocksFor(1)).toEqual([9, 5]);
    expect((await vote(user, [5, 7])).status).toBe(200);
    expect(await blocksFor(1)).toEqual([5, 7]);
    expect((await vote(alice, [5, 8])).status).toBe(200);
    expect(await blocksFor(1)).toEqual([5]);
    server.clock.advance(DAY_SECONDS);
    expect((await vote(user, [5, 7])).status).toBe(200);
    expect(await blocksFor(1)).toEqual([5, 7]);
  });

  test('say how long the chunks are', async () => {
    const reply = await server.request('bootTrace', { token: user.token, params: disk });
    expect(decodeBootTrace(reply.body).touches.map(({ chunkBytes }) => chunkBytes)).toEqual(
      [6, 8].map((seed) => chunkOf(seed).chunk.length),
    );
  });

  test('are inherited by the next version, until it has its own', async () => {
    expect(await blocksFor(2)).toEqual([5, 7]);
    expect((await vote(user, [11], { version: 2 })).status).toBe(200);
    expect(await blocksFor(2)).toEqual([11]);
  });

  test('of a publisher are what a version begins with: a boot is one vote, what is inherited counts until there is one', async () => {
    expect((await vote(alice, [21, 22], { version: 3, kind: 'inherited' })).status).toBe(200);
    expect(await blocksFor(3)).toEqual([21, 22]);
    expect((await vote(alice, [23, 24], { version: 3, kind: 'publication' })).status).toBe(200);
    expect(await blocksFor(3)).toEqual([23, 24]);
    expect((await vote(user, [24, 25], { version: 3 })).status).toBe(200);
    expect(await blocksFor(3)).toEqual([24]);
    server.clock.advance(DAY_SECONDS);
    expect((await vote(user, [24, 25], { version: 3 })).status).toBe(200);
    expect(await blocksFor(3)).toEqual([24, 25]);
    expect(await blocksFor(4)).toEqual([24, 25]);
  });

  test('of a publisher are told by a publisher, and of the disk that they say', async () => {
    for (const kind of ['publication', 'inherited'] as const) {
      expect(answer(await vote(user, [1], { version: 3, kind }))).toEqual([403, 'not-allowed']);
      expect(answer(await vote(stranger, [1], { version: 3, kind }))).toEqual([404, 'not-found']);
      expect(answer(await vote(alice, [300], { version: 3, kind }))).toEqual([400, 'bad-request']);
      expect(answer(await vote(alice, [1], { version: 3, kind, root: await rootOf(1) }))).toEqual([400, 'bad-request']);
    }
    expect(await blocksFor(3)).toEqual([24, 25]);
  });

  test('are of the disk that they say, and of blocks that it has', async () => {
    expect(answer(await vote(user, [1], { root: await rootOf(2) }))).toEqual([400, 'bad-request']);
    expect(answer(await vote(user, [300]))).toEqual([400, 'bad-request']);
    const garbage = { token: user.token, params: disk, body: Buffer.from('no trace') };
    expect(answer(await server.request('addBootTrace', garbage))[0]).toBe(400);
    expect(answer(await vote(stranger, [1]))).toEqual([404, 'not-found']);
    expect(await blocksFor(1)).toEqual([5, 7]);
  });

  test('are as many as there is room for, and a damaged one does not count', async () => {
    const folder = traceVotesFolder('debian', 1, 'system');
    expect((await vote(alice, [5, 7], { kind: 'publication' })).status).toBe(200);
    for (let day = 0; day < TRACE_VOTES_MAX + 4; day += 1) {
      server.clock.advance(DAY_SECONDS);
      expect((await vote(user, [5, 7])).status).toBe(200);
    }
    const names = await server.repository.blobStore.list(folder);
    expect(names).toContain('publication');
    const votes = names.filter((name) => name !== 'publication');
    expect(votes).toHaveLength(TRACE_VOTES_MAX);
    await server.repository.blobStore.replace(
      traceVoteName('debian', 1, 'system', votes[0] ?? ''),
      Buffer.from('damaged'),
    );
    expect(await blocksFor(1)).toEqual([5, 7]);
  });

  test('go with their version', async () => {
    for (const version of [1, 3]) {
      await removeTraces(server.repository.blobStore, 'debian', version);
      expect(await server.repository.blobStore.list(traceVotesFolder('debian', version, 'system'))).toEqual([]);
    }
  });
});
