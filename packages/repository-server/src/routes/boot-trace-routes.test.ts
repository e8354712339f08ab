import {
  type BootTrace,
  decodeBootTrace,
  decodeSegment,
  decodeVersionManifest,
  type Digest,
  encodeBootTrace,
  openEnvelope,
  PAYLOAD_TYPES,
  sha256,
} from '@collective/shared';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkRepository } from '../repository/check-repository.js';
import { collectGarbage } from '../repository/collector.js';
import { packBoots } from '../repository/boot-objects.js';
import { removeTraces, TRACE_VOTES_MAX } from '../repository/boot-traces.js';
import { packedTraceName, traceVoteName, traceVotesFolder } from '../storage/blob-names.js';
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

  describe('are packed', () => {
    const version = 4;
    const params = { ...disk, version };
    const traceNow = async (): Promise<BootTrace> => {
      const reply = await server.request('bootTrace', { token: user.token, params });
      return decodeBootTrace(reply.body);
    };
    const chunk = async (digest: string, range?: string): Promise<TestReply> =>
      server.request('chunk', { params: { digest }, headers: range === undefined ? {} : { range } });
    const votes = async (count: number, blocks: readonly number[]): Promise<void> => {
      for (let at = 0; at < count; at += 1) {
        server.clock.advance(DAY_SECONDS);
        expect((await vote(user, blocks, { version })).status).toBe(200);
      }
    };

    test('for the newest version: the blocks that boots read, each content once, in segments', async () => {
      await votes(2, [20, 21, 22, 23, 24]);
      expect(await packBoots(server.repository)).toMatchObject({ packed: 1, kept: 0, problems: [] });
      const { touches, segments = [] } = await traceNow();
      expect(touches.map(({ blockIndex }) => blockIndex)).toEqual([20, 21, 22, 23, 24]);
      expect(touches.map(({ chunkBytes }) => chunkBytes)).toEqual(
        [21, 22, 23, 24, 25].map((seed) => chunkOf(seed).chunk.length),
      );
      const blocks: Buffer[] = [];
      for (const { digest, touches: count, chunkBytes } of segments) {
        const { body } = await chunk(digest);
        expect(body.length).toBe(chunkBytes);
        blocks.push(...decodeSegment(body, { touches: count, blockBytes: BLOCK_BYTES }));
      }
      expect(blocks.map((block) => sha256(block))).toEqual([21, 22, 23, 24, 25].map((seed) => chunkOf(seed).digest));
    });

    test('and can be read in parts', async () => {
      const digest = (await traceNow()).segments?.[0]?.digest ?? '';
      const whole = (await chunk(digest)).body;
      const part = await chunk(digest, 'bytes=5-14');
      expect([part.status, part.headers['content-range'], part.body]).toEqual([
        206,
        `bytes 5-14/${whole.length}`,
        whole.subarray(5, 15),
      ]);
      for (const odd of [
        'bytes=9-5',
        `bytes=${whole.length}-${whole.length}`,
        'bytes=0-1,3-4',
        'bytes=-3',
        'lines=0-1',
      ])
        expect([odd, (await chunk(digest, odd)).body]).toEqual([odd, whole]);
    });

    test('which the collector leaves alone, and no check finds fault with', async () => {
      const { segments = [] } = await traceNow();
      server.clock.advance(DAY_SECONDS);
      await collectGarbage(server.repository, { graceSeconds: 0 });
      for (const { digest } of segments) expect((await chunk(digest)).status).toBe(200);
      expect(await checkRepository(server.repository)).toMatchObject({ problems: [], orphans: [] });
    });

    test('anew when boots read something else, and only then', async () => {
      const before = (await traceNow()).segments ?? [];
      expect(await packBoots(server.repository)).toMatchObject({ packed: 0, kept: 1 });
      await votes(4, [20, 21, 22, 40, 41]);
      expect(await packBoots(server.repository)).toMatchObject({ packed: 1, kept: 0 });
      expect((await traceNow()).touches.map(({ blockIndex }) => blockIndex)).toEqual([20, 21, 22, 40, 41]);
      await collectGarbage(server.repository, { graceSeconds: 0 });
      expect((await chunk(before.at(-1)?.digest ?? '')).status).toBe(404);
    });

    test('and anew when a packing was killed before its end', async () => {
      const last = (await traceNow()).segments?.at(-1)?.digest ?? '';
      await server.repository.blobStore.removeChunks([last as Digest]);
      expect(await packBoots(server.repository)).toMatchObject({ packed: 1 });
      expect((await chunk(last)).status).toBe(200);
    });

    test('but not when a block cannot be read, which is said', async () => {
      const { blobStore } = server.repository;
      const removed = chunkOf(61);
      await blobStore.removeChunks([removed.digest]);
      await votes(14, [60, 61]);
      const result = await packBoots(server.repository);
      expect(result.problems).toEqual([expect.stringContaining(`debian@4/system: block ${removed.digest}`)]);
      expect((await traceNow()).touches.map(({ blockIndex }) => blockIndex)).toEqual([20, 21, 22, 40, 41]);
      await blobStore.storeChunks([removed]);
    });

    test('a damaged record of what is packed is as none', async () => {
      const { blobStore } = server.repository;
      await blobStore.replace(packedTraceName('debian', version, 'system'), Buffer.from('damaged'));
      expect((await traceNow()).segments).toBeUndefined();
      expect(await packBoots(server.repository)).toMatchObject({ packed: 1, problems: [] });
      expect((await traceNow()).segments).toBeDefined();
    });

    test('and go with their version', async () => {
      await removeTraces(server.repository.blobStore, 'debian', version);
      expect(await server.repository.blobStore.list(traceVotesFolder('debian', version, 'system'))).toEqual([]);
    });
  });

  test('go with their version', async () => {
    for (const version of [1, 3]) {
      await removeTraces(server.repository.blobStore, 'debian', version);
      expect(await server.repository.blobStore.list(traceVotesFolder('debian', version, 'system'))).toEqual([]);
    }
  });
});
