import { openHeads, sha256, signLetter, type Digest, type Heads, type SigningKey } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkRepository } from '../repository/check-repository.js';
import { promotionName, versionStateName } from '../storage/blob-names.js';
import { MemoryCatalogue } from '../testing/memory-catalogue.js';
import { TestPublisher } from '../testing/test-publisher.js';
import { newKey, type TestPerson, type TestReply, TestRepository } from '../testing/test-repository.js';
import { assembleRepository } from '../repository/repository.js';

const PLAN = [1, 2, 3, 0];
let server: TestRepository;
let alice: TestPerson;
let user: TestPerson;
let other: TestPerson;
let admin: TestPerson;
let publisher: TestPublisher;
let first: { readonly version: number; readonly manifest: Digest };

beforeEach(async () => {
  server = await TestRepository.open();
  alice = await server.join('alice', 'publisher');
  admin = await server.join('root', 'admin');
  await server.allow(alice, 'debian', 'fresh');
  publisher = new TestPublisher(server, alice);
  const one = await publisher.publish({ appliance: 'debian', version: 1, parent: null, plan: PLAN });
  first = { version: 1, manifest: sha256(one.file) };
  user = await server.join('ursula', 'user', [{ name: 'debian', access: 'use' }]);
  other = await server.join('otto', 'user', [{ name: 'debian', access: 'use' }]);
});
afterEach(() => server.close());

const answer = (reply: TestReply): unknown[] => [reply.status, reply.json()['code']];
const headsNow = async (): Promise<Heads> => {
  const reply = await server.request('heads', { token: user.token });
  return openHeads(reply.body, await server.repository.trust.current());
};
const candidate = async (
  version: number,
  parent: typeof first | null = first,
  appliance = 'debian',
): Promise<{ readonly reply: TestReply; readonly digest: Digest }> => {
  const plan = [version, 2, 3, 4];
  const change = (manifest: object) => ({ ...manifest, candidate: true }) as never;
  const { reply, file } = await publisher.publish({ appliance, version, parent, plan, change });
  return { reply, digest: sha256(file) };
};
const letter = (
  version: number,
  manifest: Digest,
  account: string | null,
  key: SigningKey = alice.publishing,
  appliance = 'debian',
): Buffer => signLetter({ appliance, version, manifest, account }, key);
const put = (token: string, version: number, account: string, body: Buffer): Promise<TestReply> =>
  server.request('putLetter', { token, params: { name: 'debian', version, account }, body });
const promote = (token: string, version: number, body: Buffer): Promise<TestReply> =>
  server.request('promoteVersion', { token, params: { name: 'debian', version }, body });
const problems = async (): Promise<unknown> => (await checkRepository(server.repository)).problems;

describe('a candidate', () => {
  test('is named by heads as a candidate, and the version for all stays', async () => {
    const { reply, digest } = await candidate(2);
    expect(reply.status).toBe(201);
    const heads = await headsNow();
    expect(heads.heads).toMatchObject([{ appliance: 'debian', version: 1 }]);
    expect(heads.candidates).toEqual([{ appliance: 'debian', version: 2, manifest: digest }]);
    expect((await server.repository.blobStore.read('appliances/debian/latest' as never))?.toString()).toBe('1\n');
    expect(await problems()).toEqual([]);
  });

  test('is read by publishers and by those who are named, by nobody else, also when it was withdrawn', async () => {
    const { digest } = await candidate(2);
    expect((await put(alice.token, 2, 'ursula', letter(2, digest, 'ursula'))).status).toBe(200);
    const read = async (token: string): Promise<number[]> => {
      const params = { name: 'debian', version: 2 };
      const disk = { ...params, disk: 'system' };
      const list = await server.request('versions', { token, params: { name: 'debian' } });
      return [
        (await server.request('versionManifest', { token, params })).status,
        (await server.request('diskMap', { token, params: disk })).status,
        (await server.request('diskChanges', { token, params: disk, query: { since: 1 } })).status,
        (JSON.parse(list.body.toString()) as unknown[]).length,
      ];
    };
    expect(await read(user.token)).toEqual([200, 200, 200, 2]);
    expect(await read(alice.token)).toEqual([200, 200, 200, 2]);
    expect(await read(other.token)).toEqual([404, 404, 404, 1]);
    await server.request('withdrawVersion', { token: alice.token, params: { name: 'debian', version: 2 } });
    expect(await read(other.token)).toEqual([404, 404, 404, 1]);
    expect((await headsNow()).candidates).toBeUndefined();
  });

  test('letters are answered to whom they name, and to nobody who may not use the appliance', async () => {
    const { digest } = await candidate(2);
    const mine = letter(2, digest, 'ursula');
    await put(alice.token, 2, 'ursula', mine);
    const own = async (token: string): Promise<unknown> =>
      JSON.parse((await server.request('candidates', { token })).body.toString());
    expect(await own(user.token)).toEqual([{ appliance: 'debian', version: 2, letter: mine.toString('base64') }]);
    expect(await own(other.token)).toEqual([]);
    await server.request('removeAccess', {
      token: admin.token,
      params: { account: 'ursula', appliance: 'debian' },
    });
    expect(await own(user.token)).toEqual([]);
  });

  test('people are named and struck off by publishers alone', async () => {
    const { digest } = await candidate(2);
    const params = { name: 'debian', version: 2, account: 'ursula' };
    const body = letter(2, digest, 'ursula');
    for (const token of [user.token, other.token]) {
      expect(answer(await put(token, 2, 'ursula', body))).toEqual([403, 'not-allowed']);
      expect(answer(await server.request('removeLetter', { token, params }))).toEqual([403, 'not-allowed']);
      expect(
        answer(await server.request('candidateLetters', { token, params: { name: 'debian', version: 2 } })),
      ).toEqual([403, 'not-allowed']);
      expect(answer(await promote(token, 2, letter(2, digest, null)))).toEqual([403, 'not-allowed']);
    }
    await put(alice.token, 2, 'ursula', body);
    const list = await server.request('candidateLetters', {
      token: alice.token,
      params: { name: 'debian', version: 2 },
    });
    expect(JSON.parse(list.body.toString())).toEqual(['ursula']);
    expect((await server.request('removeLetter', { token: alice.token, params })).status).toBe(200);
    expect(answer(await server.request('removeLetter', { token: alice.token, params }))).toEqual([404, 'not-found']);
    expect(JSON.parse((await server.request('candidates', { token: user.token })).body.toString())).toEqual([]);
  });

  test('a letter by a strange key, of another version, for somebody else or for nobody there is refused', async () => {
    const { digest } = await candidate(2);
    const wrong: readonly [string, Buffer][] = [
      ['untrusted', letter(2, digest, 'ursula', newKey())],
      ['untrusted', letter(3, digest, 'ursula')],
      ['untrusted', letter(2, first.manifest, 'ursula')],
      ['untrusted', letter(2, digest, 'otto')],
      ['untrusted', letter(2, digest, null)],
      ['untrusted', letter(2, digest, 'ursula', alice.publishing, 'fresh')],
      ['malformed', Buffer.from('{}')],
    ];
    for (const [code, body] of wrong) expect((await put(alice.token, 2, 'ursula', body)).json()['code']).toBe(code);
    for (const account of ['nobody', 'alice-b'])
      expect(answer(await put(alice.token, 2, account, letter(2, digest, account)))).toEqual([404, 'not-found']);
    expect(answer(await put(alice.token, 1, 'ursula', letter(1, first.manifest, 'ursula')))).toEqual([
      404,
      'not-found',
    ]);
  });

  test('no number is given twice: the next upload is told the one above, and a lower one conflicts', async () => {
    await candidate(2);
    const opened = await server.request('createUpload', {
      token: alice.token,
      params: { name: 'debian' },
      body: { parent: 1 },
    });
    expect(opened.json()['nextVersion']).toBe(3);
    const again = await publisher.publish({ appliance: 'debian', version: 2, parent: first, plan: [9] });
    expect(answer(again.reply)).toEqual([409, 'conflict']);
    const next = await publisher.publish({ appliance: 'debian', version: 3, parent: first, plan: [9] });
    expect(next.reply.status).toBe(201);
    expect(await problems()).toEqual([]);
  });

  test('there are at most 16 of one appliance', async () => {
    for (let version = 2; version < 18; version += 1) expect((await candidate(version)).reply.status).toBe(201);
    expect(answer((await candidate(18)).reply)).toEqual([413, 'too-large']);
    await server.request('withdrawVersion', { token: alice.token, params: { name: 'debian', version: 5 } });
    expect((await candidate(18)).reply.status).toBe(201);
  });

  test('of a new appliance is the appliance: another publisher who was sending one of that name comes too late', async () => {
    const bob = await server.join('bob', 'publisher');
    await server.allow(bob, 'fresh');
    const theirs = new TestPublisher(server, bob);
    const upload = await theirs.openUpload('fresh', null);
    expect((await candidate(1, null, 'fresh')).reply.status).toBe(201);
    await theirs.sendChunks(upload, [7]);
    await theirs.sendDisk(upload, [7]);
    const { manifestOf, signManifest } = await import('../testing/test-publisher.js');
    const file = signManifest(manifestOf({ appliance: 'fresh', version: 2, parent: null, plan: [7] }), bob.publishing);
    expect(answer(await theirs.commit(upload, file))).toEqual([409, 'conflict']);
    expect(await server.repository.catalogue.people.accessOf('bob')).toEqual([]);
    expect((await candidate(2, null, 'fresh')).reply.status).toBe(201);
  });
});

describe('a promotion', () => {
  test('makes the candidate the version for all, under its own number; twice is once', async () => {
    const { digest } = await candidate(2);
    expect(answer(await promote(alice.token, 2, letter(2, digest, 'ursula')))).toEqual([403, 'untrusted']);
    expect(answer(await promote(alice.token, 2, letter(2, digest, null, newKey())))).toEqual([403, 'untrusted']);
    const body = letter(2, digest, null);
    for (let times = 0; times < 2; times += 1) expect((await promote(alice.token, 2, body)).status).toBe(200);
    const heads = await headsNow();
    expect(heads.heads).toEqual([{ appliance: 'debian', version: 2, manifest: digest }]);
    expect(heads.candidates).toBeUndefined();
    const params = { name: 'debian', version: 2 };
    expect((await server.request('versionManifest', { token: other.token, params })).status).toBe(200);
    const shown = await server.request('promotion', { token: other.token, params });
    expect(shown.body.equals(body)).toBe(true);
    expect((await server.repository.blobStore.read('appliances/debian/latest' as never))?.toString()).toBe('2\n');
    expect(await problems()).toEqual([]);
  });

  test('of a candidate that would undo a later version is a conflict', async () => {
    const two = await candidate(2);
    const three = await candidate(3);
    await promote(alice.token, 3, letter(3, three.digest, null));
    expect(answer(await promote(alice.token, 2, letter(2, two.digest, null)))).toEqual([409, 'conflict']);
    expect((await headsNow()).heads).toMatchObject([{ version: 3 }]);
    expect(await problems()).toEqual([]);
  });

  test('whose row was cut off by a crash is made good at the next start, and what was not promoted stays a candidate', async () => {
    const { digest } = await candidate(2);
    await candidate(3);
    await server.repository.blobStore.create(promotionName('debian', 2), letter(2, digest, null));
    const again = await assembleRepository(server.repository);
    expect((await again.catalogue.versions.version('debian', 2))?.state).toBe('live');
    expect((await again.catalogue.versions.version('debian', 3))?.state).toBe('candidate');
    expect((await headsNow()).heads).toMatchObject([{ version: 2 }]);
  });

  test('when the catalogue is lost, versions are again what manifests, promotions and states say', async () => {
    const two = await candidate(2);
    await promote(alice.token, 2, letter(2, two.digest, null));
    const parent = { version: 2, manifest: two.digest };
    await candidate(3, parent);
    await candidate(4, parent);
    await server.request('withdrawVersion', { token: alice.token, params: { name: 'debian', version: 3 } });
    expect(await server.repository.blobStore.read(versionStateName('debian', 3))).toBeDefined();
    const catalogue = new MemoryCatalogue();
    await assembleRepository({ ...server.repository, catalogue });
    expect((await catalogue.versions.versions('debian')).map(({ state }) => state)).toEqual([
      'live',
      'live',
      'withdrawn',
      'candidate',
    ]);
  });
});

describe('a mandatory version', () => {
  const set = (token: string, body: object, name = 'debian'): Promise<TestReply> =>
    server.request('setMandatory', { token, params: { name }, body });
  const mark = { version: 1, from: 1_900_000_000, graceDays: 7 };

  test('is set and taken back by administrators alone, and named by the heads', async () => {
    for (const token of [alice.token, user.token]) {
      expect((await set(token, mark)).status).toBe(403);
      expect((await server.request('removeMandatory', { token, params: { name: 'debian' } })).status).toBe(403);
    }
    expect((await set(admin.token, mark)).status).toBe(200);
    expect((await headsNow()).mandatory).toEqual([{ appliance: 'debian', ...mark }]);
    expect((await server.request('removeMandatory', { token: admin.token, params: { name: 'debian' } })).status).toBe(
      200,
    );
    expect((await headsNow()).mandatory).toBeUndefined();
    expect(answer(await server.request('removeMandatory', { token: admin.token, params: { name: 'debian' } }))).toEqual(
      [404, 'not-found'],
    );
  });

  test('must be for all already', async () => {
    await candidate(2);
    expect(answer(await set(admin.token, { ...mark, version: 2 }))).toEqual([400, 'bad-request']);
    expect(answer(await set(admin.token, mark, 'nothing'))).toEqual([400, 'bad-request']);
    expect((await headsNow()).mandatory).toBeUndefined();
  });
});
