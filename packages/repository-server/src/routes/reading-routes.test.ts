import {
  decodeChunkBatch,
  decodeMapPage,
  decodeChunk,
  encodeChunk,
  openHeads,
  ROUTES,
  type RouteName,
  type RouteSpec,
  sha256,
} from '@collective/shared';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { trustName } from '../storage/blob-names.js';
import { blockOf, chunkOf, mapOf, TestPublisher } from '../testing/test-publisher.js';
import { type TestPerson, type TestReply, TestRepository } from '../testing/test-repository.js';

let server: TestRepository;
let alice: TestPerson;
let user: TestPerson;
let stranger: TestPerson;

// 300 blocks: a root and three leaves, the middle one all zero.
const PLAN = Array.from({ length: 300 }, (_, index) => (index < 128 ? index + 1 : index < 256 ? 0 : 1_000 + index));
const NEXT = PLAN.map((seed, index) => (index === 5 ? 5_000 : seed));

beforeAll(async () => {
  server = await TestRepository.open();
  alice = await server.join('alice', 'publisher');
  await server.allow(alice, 'debian');
  const publisher = new TestPublisher(server, alice);
  const one = await publisher.publish({ appliance: 'debian', version: 1, parent: null, plan: PLAN });
  const parent = { version: 1, manifest: sha256(one.file) };
  await publisher.publish({ appliance: 'debian', version: 2, parent, plan: NEXT, title: 'Debian with fewer bugs' });
  user = await server.join('ursula', 'user', [{ name: 'debian', access: 'use' }]);
  stranger = await server.join('sam', 'user', [{ name: 'nothing-yet', access: 'use' }]);
});
afterAll(() => server.close());

const answer = (reply: TestReply): unknown[] => [reply.status, reply.json()['code']];
const disk = { name: 'debian', version: 1, disk: 'system' };
const map = (query: Record<string, string>): Promise<TestReply> =>
  server.request('diskMap', { token: user.token, params: disk, query });

describe('reading what one may use', () => {
  test('heads are signed by the key that the trust file names', async () => {
    const reply = await server.request('heads', { token: user.token });
    const heads = openHeads(reply.body, await server.repository.trust.current());
    expect(heads.heads).toMatchObject([{ appliance: 'debian', version: 2 }]);
  });
  test('appliances and versions are listed with what a chooser shows', async () => {
    expect(JSON.parse((await server.request('appliances', { token: user.token })).body.toString())).toEqual([
      { name: 'debian', access: 'use', title: 'Debian with fewer bugs', latest: 2 },
    ]);
    expect(JSON.parse((await server.request('appliances', { token: stranger.token })).body.toString())).toEqual([
      { name: 'nothing-yet', access: 'use', title: '', latest: null },
    ]);
    const versions = await server.request('versions', { token: user.token, params: { name: 'debian' } });
    expect(JSON.parse(versions.body.toString())).toMatchObject([
      { version: 1, withdrawn: false, title: 'Version 1' },
      { version: 2, withdrawn: false, title: 'Debian with fewer bugs' },
    ]);
  });
  test('the size of a version is what its chunks and pages take, shared ones included', async () => {
    const blocks = [...new Set(PLAN)].filter((seed) => seed !== 0).map((seed) => chunkOf(seed).chunk.length);
    const pages = [...mapOf(PLAN).build().pages.values()].map((page) => encodeChunk(page).length);
    const [row] = await server.repository.catalogue.versions.versions('debian');
    expect(row?.chunkBytes).toBe([...blocks, ...pages].reduce((sum, bytes) => sum + bytes, 0));
  });
  test('a map comes whole, or its upper levels, or leaves by position; all-zero leaves have no page', async () => {
    const pagesOf = (reply: TestReply): number[] =>
      decodeChunkBatch(reply.body).map(
        ({ digest, chunk }) => decodeMapPage(decodeChunk(chunk, { digest, plainBytesMax: 4_136 })).level,
      );
    expect(pagesOf(await map({}))).toEqual([1, 0, 0]);
    expect(pagesOf(await map({ part: 'all' }))).toEqual([1, 0, 0]);
    expect(pagesOf(await map({ part: 'upper' }))).toEqual([1]);
    expect(pagesOf(await map({ part: 'leaves', positions: '0,1,2' }))).toEqual([0, 0]);
    const digests = decodeChunkBatch((await map({ part: 'leaves', positions: '2' })).body).map(({ digest }) => digest);
    expect(
      mapOf(PLAN)
        .build()
        .pages.has(digests[0] ?? sha256(Buffer.alloc(0))),
    ).toBe(true);
  });
  test('positions that are not there, or without part=leaves, are refused', async () => {
    expect(answer(await map({ part: 'leaves', positions: '3' }))).toEqual([400, 'bad-request']);
    expect(answer(await map({ positions: '0' }))).toEqual([400, 'bad-request']);
    expect(answer(await map({ part: 'leaves' }))).toEqual([400, 'bad-request']);
    expect(answer(await map({ part: 'some' }))).toEqual([400, 'bad-request']);
    expect(answer(await map({ part: 'leaves', positions: '1,,2' }))).toEqual([400, 'bad-request']);
  });
  test('versions, disks and numbers that do not exist are not found or refused', async () => {
    const { token } = user;
    const get = async (name: RouteName, params: Record<string, string | number>, query = {}): Promise<unknown[]> =>
      answer(await server.request(name, { token, params, query }));
    expect(await get('versionManifest', { name: 'debian', version: 3 })).toEqual([404, 'not-found']);
    expect(await get('diskMap', { ...disk, disk: 'other' })).toEqual([404, 'not-found']);
    expect(await get('diskChanges', disk, { since: 9 })).toEqual([404, 'not-found']);
    for (const version of ['0', '01', '1e3', '-1', '99999999999', 'x']) {
      expect(await get('versionManifest', { name: 'debian', version })).toEqual([400, 'bad-request']);
    }
  });
});

describe('reading what one may not', () => {
  const reading: readonly [RouteName, Record<string, string | number>, Record<string, number>][] = [
    ['versions', { name: 'debian' }, {}],
    ['versionManifest', { name: 'debian', version: 1 }, {}],
    ['diskMap', disk, {}],
    ['diskChanges', { ...disk, version: 2 }, { since: 1 }],
  ];
  test.each(reading)('%s: no access looks like no appliance, no token is told so', async (name, params, query) => {
    const there = await server.request(name, { token: stranger.token, params, query });
    const nowhere = await server.request(name, {
      token: stranger.token,
      params: { ...params, name: 'nowhere' },
      query,
    });
    expect(answer(there)).toEqual([404, 'not-found']);
    expect(there.body.toString().replaceAll('debian', '')).toBe(nowhere.body.toString().replaceAll('nowhere', ''));
    expect(answer(await server.request(name, { params, query }))).toEqual([401, 'not-logged-in']);
    expect((await server.request(name, { token: user.token, params, query })).status).toBe(200);
  });
});

describe('every route of the table', () => {
  const parameters: Readonly<Record<string, string>> = {
    name: 'debian',
    version: '1',
    disk: 'system',
    upload: 'a'.repeat(32),
    account: 'x',
    appliance: 'x',
    device: 'a'.repeat(64),
    id: 'a'.repeat(64),
  };
  const refusals = async (wanted: (route: RouteSpec) => boolean, authorization: string | undefined): Promise<void> => {
    const routes: [string, RouteSpec][] = Object.entries(ROUTES);
    const asked = routes.filter(([, route]) => wanted(route));
    expect(asked.length).toBeGreaterThan(3);
    for (const [name, route] of asked) {
      const response = await server.app.inject({
        method: route.method,
        url: route.path.replace(/:([a-z]+)/g, (_whole, key: string) => parameters[key] ?? ''),
        ...(authorization === undefined ? {} : { headers: { authorization } }),
      });
      refused.push([name, response.statusCode, response.json().code]);
    }
  };
  let refused: unknown[][] = [];
  const all = (status: number, code: string): unknown[][] => refused.map(([name]) => [name, status, code]);
  beforeEach(() => (refused = []));

  test.each([undefined, `Bearer ${'A'.repeat(43)}`, 'Bearer x', `Basic ${'A'.repeat(43)}`])(
    'that wants a token refuses with the header %s',
    async (authorization) => {
      await refusals(({ auth }) => auth !== 'none', authorization);
      expect(refused).toEqual(all(401, 'not-logged-in'));
    },
  );

  test('that wants a session refuses the token of a password login', async () => {
    const { account, loginSecret } = user;
    const reply = await server.request('loginPassword', { body: { account, loginSecret } });
    await refusals(({ auth }) => auth === 'session', `Bearer ${String(reply.json()['token'])}`);
    expect(refused).toEqual(all(403, 'not-allowed'));
  });

  test('that is for administrators refuses users and publishers', async () => {
    for (const { token } of [user, alice]) await refusals(({ role }) => role === 'admin', `Bearer ${token}`);
    expect(refused).toEqual(all(403, 'not-allowed'));
  });
});

describe('what needs no token', () => {
  test('health and identity', async () => {
    expect((await server.request('health')).json()).toEqual({ ok: true });
    expect((await server.request('identity')).json()).toMatchObject({
      identity: server.repository.identity,
      protocol: 1,
    });
  });
  test('trust files by number', async () => {
    const reply = await server.request('trust', { params: { number: 1 } });
    expect(sha256(reply.body)).toBe(server.repository.identity);
    expect(reply.body).toEqual(await server.repository.blobStore.read(trustName(1)));
    expect(answer(await server.request('trust', { params: { number: 3 } }))).toEqual([404, 'not-found']);
  });
  test('a chunk, cachable for ever, with its digest as ETag; HEAD and If-None-Match send no body', async () => {
    const { digest } = chunkOf(7);
    const reply = await server.request('chunk', { params: { digest } });
    expect(decodeChunk(reply.body, { digest })).toEqual(blockOf(7));
    expect(reply.headers).toMatchObject({
      etag: `"${digest}"`,
      'cache-control': 'public, max-age=31536000, immutable',
      'content-type': 'application/octet-stream',
      'content-length': String(reply.body.length),
    });
    const head = await server.request('chunk', { params: { digest }, method: 'HEAD' });
    expect([head.status, head.body.length, head.headers['content-length']]).toEqual([
      200,
      0,
      String(reply.body.length),
    ]);
    const same = await server.request('chunk', { params: { digest }, headers: { 'if-none-match': `"${digest}"` } });
    expect([same.status, same.body.length]).toEqual([304, 0]);
    const other = await server.request('chunk', { params: { digest }, headers: { 'if-none-match': '"x"' } });
    expect(other.status).toBe(200);
  });
  test('a chunk that is not there, and names that are no digest or lead out of the folder', async () => {
    const { digest } = chunkOf(99_999);
    const missing = await server.request('chunk', { params: { digest } });
    expect([answer(missing), missing.headers['cache-control']]).toEqual([[404, 'not-found'], undefined]);
    for (const bad of ['x', digest.toUpperCase(), `${digest}0`, '../heads', '..%2f..%2fheads', `aa/../${digest}`]) {
      const reply = await server.request('chunk', { params: { digest: bad } });
      expect([400, 404]).toContain(reply.status);
    }
  });
});
