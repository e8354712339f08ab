/** Profile, key changes, recovery and reset against hostile callers: strangers, token thieves, revoked devices, old states. */
import { randomBytes } from 'node:crypto';
import {
  derivePersonKeys,
  type KeyChange,
  keyChangeMessage,
  keyId,
  newPasswordParameters,
  newPersonSecret,
  type PersonKeys,
  type Profile,
  sealProfile,
  type SigningKey,
} from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkRepository } from '../repository/check-repository.js';
import { inviteAccount } from '../repository/invite-account.js';
import { readKeys } from '../repository/keys-record.js';
import { resetAccount } from '../repository/reset-account.js';
import { keysRecordName } from '../storage/blob-names.js';
import { keysFileOf, newKey, type TestPerson, type TestReply, TestRepository } from '../testing/test-repository.js';

let server: TestRepository;
let alice: TestPerson;
/** The identity is the server's test person's; the profile key is any. */
let keys: Pick<PersonKeys, 'identity' | 'profileKey'>;
beforeEach(async () => {
  server = await TestRepository.open();
  alice = await server.join('alice', 'user', [{ name: 'debian', access: 'use' }]);
  keys = { identity: alice.identity, profileKey: randomBytes(32) };
});
afterEach(() => server.close());

const secret = (): string => randomBytes(32).toString('base64url');
const box = (): string => randomBytes(72).toString('base64url');
const answer = (reply: TestReply): unknown[] => [reply.status, reply.json()['code']];
const profileOf = (number: number): Profile => ({
  format: 1,
  number,
  account: 'alice',
  repository: { identity: server.repository.identity, origin: 'http://127.0.0.1:1', pin: null },
  devices: [],
  epochs: [],
  formerIdentities: [],
  subscriptions: [],
});
const problems = async (): Promise<unknown> => (await checkRepository(server.repository)).problems;

describe('the profile', () => {
  const put = (after: number, body: Buffer, token = alice.token): Promise<TestReply> =>
    server.request('setProfile', { token, query: { after }, body });

  test('is kept as it came, and only its next number replaces it', async () => {
    expect(answer(await server.request('profile', { token: alice.token }))).toEqual([404, 'not-found']);
    const [first, second] = [sealProfile(profileOf(1), keys), sealProfile(profileOf(2), keys)];
    expect((await put(0, first)).json()).toEqual({ number: 1 });
    expect((await server.request('profile', { token: alice.token })).body).toEqual(first);
    expect((await put(1, second)).json()).toEqual({ number: 2 });
    const behind = await put(1, sealProfile(profileOf(2), keys));
    expect([...answer(behind), behind.json()['data']]).toEqual([409, 'conflict', { number: 2 }]);
    expect(answer(await put(0, first))).toEqual([409, 'conflict']);
    expect((await server.request('profile', { token: alice.token })).body).toEqual(second);
    expect(await problems()).toEqual([]);
  });
  test('of two devices at once one gets through whole', async () => {
    const files = [sealProfile(profileOf(1), keys), sealProfile(profileOf(1), keys)];
    const replies = await Promise.all(files.map((file) => put(0, file)));
    expect(replies.map(({ status }) => status).sort()).toEqual([200, 409]);
    const winner = files[replies.findIndex(({ status }) => status === 200)];
    expect((await server.request('profile', { token: alice.token })).body).toEqual(winner);
  });
  test('a token alone replaces nothing: another signature, another number outside, garbage, too much', async () => {
    await put(0, sealProfile(profileOf(1), keys));
    const thief = { ...keys, identity: newKey() };
    expect(answer(await put(1, sealProfile(profileOf(2), thief)))).toEqual([403, 'untrusted']);
    expect(answer(await put(1, sealProfile(profileOf(3), keys)))).toEqual([400, 'malformed']);
    expect(answer(await put(1, randomBytes(500)))).toEqual([400, 'malformed']);
    expect(answer(await put(1, Buffer.alloc(0)))).toEqual([400, 'malformed']);
    expect(answer(await put(1, Buffer.alloc(300_000)))).toEqual([413, 'too-large']);
    expect(answer(await put(-1, sealProfile(profileOf(2), keys)))).toEqual([400, 'bad-request']);
  });
  test("is not another account's, and a revoked device gets none", async () => {
    await put(0, sealProfile(profileOf(1), keys));
    const bob = await server.join('bob', 'user');
    expect(answer(await server.request('profile', { token: bob.token }))).toEqual([404, 'not-found']);
    expect(answer(await put(1, sealProfile(profileOf(2), keys), bob.token))).toEqual([403, 'untrusted']);
    await server.repository.catalogue.people.revokeDevice(alice.deviceId, 1);
    expect(answer(await server.request('profile', { token: alice.token }))).toEqual([401, 'device-revoked']);
    expect(answer(await put(1, sealProfile(profileOf(2), keys)))).toEqual([401, 'device-revoked']);
  });
});

const newPassword = (): NonNullable<KeyChange['password']> => ({
  parameters: newPasswordParameters(),
  loginSecret: secret(),
  byPassword: box(),
});
const newCode = (): NonNullable<KeyChange['recovery']> => ({ recoverySecret: secret(), byRecoveryCode: box() });
const changeOf = (by: Partial<KeyChange> = {}): KeyChange => ({
  format: 1,
  account: 'alice',
  recovery: null,
  password: newPassword(),
  ...by,
});
const proven = (change: KeyChange, nonce: string, by: SigningKey = alice.identity): Record<string, unknown> => {
  const message = keyChangeMessage({
    identity: server.repository.identity,
    nonce: Buffer.from(nonce, 'base64url'),
    change,
  });
  return { change, nonce, signature: by.sign(message).toString('base64url') };
};
const login = async (loginSecret: string, account = 'alice'): Promise<TestReply> =>
  server.request('loginPassword', { body: { account, loginSecret } });

describe('changing keys', () => {
  const nonce = async (device = alice.deviceId): Promise<string> =>
    String((await server.request('loginChallenge', { body: { device } })).json()['nonce']);
  const put = (body: unknown, token = alice.token): Promise<TestReply> => server.request('changeKeys', { token, body });

  test('a new password counts at once, as one step, and the date is told; the code stays', async () => {
    server.clock.advance(100);
    const change = changeOf({ recovery: newCode() });
    expect((await put(proven(change, await nonce()))).json()).toEqual({ changedAt: server.clock.nowSeconds() });
    expect(answer(await login(alice.loginSecret))).toEqual([401, 'wrong-password']);
    const again = changeOf();
    expect((await put(proven(again, await nonce()))).status).toBe(200);
    const reply = await login(again.password?.loginSecret ?? '');
    expect(reply.json()['keys']).toEqual({
      format: 1,
      identityKey: alice.identity.publicKey,
      byPassword: again.password?.byPassword,
      byRecoveryCode: change.recovery?.byRecoveryCode,
    });
    const me = (await server.request('me', { token: alice.token })).json();
    expect(me).toMatchObject({
      passwordParameters: again.password?.parameters,
      passwordChangedAt: server.clock.nowSeconds(),
    });
    expect(await problems()).toEqual([]);
  });
  test('a new recovery code leaves password and date alone', async () => {
    const before = (await server.request('me', { token: alice.token })).json();
    server.clock.advance(100);
    const change = changeOf({ password: null, recovery: newCode() });
    expect((await put(proven(change, await nonce()))).status).toBe(200);
    expect((await server.request('me', { token: alice.token })).json()).toEqual(before);
    expect((await login(alice.loginSecret)).json()['keys']).toMatchObject({
      byRecoveryCode: change.recovery?.byRecoveryCode,
    });
  });
  test('a stolen token alone changes nothing: another key, a used, late or invented nonce, another body', async () => {
    const change = changeOf();
    const used = await nonce();
    const good = proven(change, used);
    const refused = [
      proven(change, await nonce(), newKey()),
      proven(change, await nonce(), alice.device),
      proven(change, secret()),
      { ...proven(change, await nonce()), change: changeOf() },
      { ...proven(change, await nonce()), signature: randomBytes(64).toString('base64url') },
    ];
    for (const body of refused) expect(answer(await put(body))).toEqual([400, 'bad-signature']);
    expect((await put(good)).status).toBe(200);
    expect(answer(await put(good))).toEqual([400, 'bad-signature']);
    const late = await nonce();
    server.clock.advance(60);
    expect(answer(await put(proven(changeOf(), late)))).toEqual([400, 'bad-signature']);
    expect((await login(change.password?.loginSecret ?? '')).status).toBe(200);
  });
  test("another account's keys, weak parameters and a change of nothing are refused", async () => {
    const bob = await server.join('bob', 'user');
    expect(answer(await put(proven(changeOf(), await nonce()), bob.token))).toEqual([403, 'not-allowed']);
    const weak = { ...newPassword(), parameters: { ...newPasswordParameters(), logN: 10 } };
    const body = { ...proven(changeOf(), await nonce()), change: { ...changeOf(), password: weak } };
    expect(answer(await put(body))).toEqual([400, 'bad-request']);
    const nothing = { ...proven(changeOf(), await nonce()), change: changeOf({ password: null }) };
    expect(answer(await put(nothing))).toEqual([400, 'malformed']);
  });
  test.each(['changePassword', 'acceptReset'] as const)(
    'a power cut before %s leaves the old keys and the old password, and the next change works',
    async (step) => {
      const { people } = server.repository.catalogue;
      const real = people[step];
      people[step] = async () => Promise.reject(new Error('power'));
      const broken = changeOf();
      if (step === 'changePassword') expect((await put(proven(broken, await nonce()))).status).toBe(500);
      else await acceptReset().catch(() => undefined);
      people[step] = real as never;
      const reply = await login(alice.loginSecret);
      expect(reply.json()['keys']).toMatchObject({ identityKey: alice.identity.publicKey });
      const next = changeOf();
      expect((await put(proven(next, await nonce()))).status).toBe(200);
      expect((await login(next.password?.loginSecret ?? '')).json()['keys']).toMatchObject({
        byPassword: next.password?.byPassword,
      });
    },
  );
});

describe('recovery', () => {
  const challenge = async (account: string, recoverySecret: string): Promise<TestReply> =>
    server.request('recoveryChallenge', { body: { account, recoverySecret } });
  const recover = async (body: unknown): Promise<TestReply> => server.request('loginRecovery', { body });
  const nonceOf = async ({ account, recoverySecret } = alice): Promise<string> =>
    String((await challenge(account, recoverySecret)).json()['nonce']);

  test('who has the code, and signs with the identity key, sets a new password', async () => {
    const change = changeOf();
    expect((await recover(proven(change, await nonceOf()))).status).toBe(200);
    expect((await login(change.password?.loginSecret ?? '')).status).toBe(200);
    expect(answer(await login(alice.loginSecret))).toEqual([401, 'wrong-password']);
  });
  test('an unknown account, one without a code and a wrong code cannot be told apart, and get no box', async () => {
    const none = await invited('dora');
    const replies = [
      await challenge('alice', secret()),
      await challenge('nobody', secret()),
      await challenge('dora', none),
      await challenge('alice', alice.loginSecret),
    ];
    expect(replies.map(answer)).toEqual(replies.map(() => [401, 'wrong-password']));
    expect(new Set(replies.map(({ body }) => body.toString())).size).toBe(1);
  });
  test('a device that was revoked has the identity key, and does not get back in with it', async () => {
    await server.repository.catalogue.people.revokeDevice(alice.deviceId, 1);
    const nonces = [
      secret(),
      String((await server.request('loginChallenge', { body: { device: alice.deviceId } })).json()['nonce']),
    ];
    for (const nonce of nonces)
      expect(answer(await recover(proven(changeOf(), nonce)))).toEqual([401, 'wrong-password']);
  });
  test('a wrong key, a nonce of somebody else, an invented one and an unknown account get the same answer', async () => {
    const bob = await server.join('bob', 'user');
    const refused = [
      await recover(proven(changeOf(), await nonceOf(), newKey())),
      await recover(proven(changeOf({ account: 'nobody' }), await nonceOf())),
      await recover(proven(changeOf(), secret())),
      await recover(proven(changeOf(), await nonceOf(bob))),
    ];
    expect(new Set(refused.map((reply) => `${reply.status} ${reply.body.toString()}`)).size).toBe(1);
    expect(refused[0]?.status).toBe(401);
  });
  test('a code that was renewed opens nothing any more, the new one does', async () => {
    const change = changeOf({ password: null, recovery: newCode() });
    const nonce = String(
      (await server.request('loginChallenge', { body: { device: alice.deviceId } })).json()['nonce'],
    );
    const body = proven(change, nonce);
    expect((await server.request('changeKeys', { token: alice.token, body })).status).toBe(200);
    expect(answer(await challenge('alice', alice.recoverySecret))).toEqual([401, 'wrong-password']);
    const reply = await challenge('alice', change.recovery?.recoverySecret ?? '');
    expect(reply.json()['byRecoveryCode']).toBe(change.recovery?.byRecoveryCode);
  });
  test('a nonce of a device is none for a recovery, and the other way round', async () => {
    const ofDevice = String(
      (await server.request('loginChallenge', { body: { device: alice.deviceId } })).json()['nonce'],
    );
    expect(answer(await recover(proven(changeOf(), ofDevice)))).toEqual([401, 'wrong-password']);
    const body = proven(changeOf(), await nonceOf());
    expect(answer(await server.request('changeKeys', { token: alice.token, body }))).toEqual([400, 'bad-signature']);
  });
  test('guessing is slowed as a login is; a revoked account is told so only with the right key', async () => {
    for (let count = 0; count < 20; count += 1) await challenge('alice', secret());
    expect(answer(await challenge('alice', alice.recoverySecret))).toEqual([429, 'rate-limited']);
    server.clock.advance(60);
    const nonce = await nonceOf();
    const stranger = await nonceOf();
    await server.repository.catalogue.people.revokeAccount('alice', 1);
    expect(answer(await recover(proven(changeOf(), stranger, newKey())))).toEqual([401, 'wrong-password']);
    expect(answer(await recover(proven(changeOf(), nonce)))).toEqual([401, 'revoked']);
  });
  test('without a new password it is nothing', async () => {
    const change = changeOf({ password: null, recovery: newCode() });
    expect(answer(await recover(proven(change, await nonceOf())))).toEqual([400, 'bad-request']);
  });
});

/** An account without a recovery code; gives any secret. */
const invited = async (account: string): Promise<string> => {
  const { catalogue, clock } = server.repository;
  const times = { now: clock.nowSeconds(), seconds: 600 };
  const { token } = await inviteAccount(catalogue, { account, role: 'user', appliances: [] }, times);
  const body = {
    token,
    account,
    passwordParameters: newPasswordParameters(),
    loginSecret: secret(),
    keys: { ...keysFileOf(newKey()), byRecoveryCode: box() },
    recoverySecret: null,
  };
  expect((await server.request('acceptInvitation', { body })).status).toBe(200);
  return secret();
};

const reset = async (): Promise<string> =>
  (await resetAccount(server.repository, 'alice', { now: server.clock.nowSeconds(), seconds: 600 })).token;
const accept = (token: string, identity: SigningKey, loginSecret = secret()): Promise<TestReply> =>
  server.request('acceptInvitation', {
    body: {
      token,
      account: 'alice',
      passwordParameters: newPasswordParameters(),
      loginSecret,
      keys: keysFileOf(identity),
      recoverySecret: null,
    },
  });
const acceptReset = async (): Promise<{ readonly identity: SigningKey; readonly loginSecret: string }> => {
  const { identity } = derivePersonKeys(newPersonSecret());
  const loginSecret = secret();
  const reply = await accept(await reset(), identity, loginSecret);
  if (reply.status !== 200) throw new Error(reply.body.toString());
  return { identity, loginSecret };
};

describe('a reset', () => {
  const kind = async (token: string): Promise<TestReply> => server.request('invitationKind', { body: { token } });
  const locked = async (): Promise<TestReply> => server.request('lockedKeys', { token: alice.token });

  test('changes nothing until it is accepted; then the old keys and profile are kept aside, and role and access stay', async () => {
    const file = sealProfile(profileOf(1), keys);
    await server.request('setProfile', { token: alice.token, query: { after: 0 }, body: file });
    const token = await reset();
    expect((await kind(token)).json()).toEqual({ account: 'alice', isReset: true });
    expect((await login(alice.loginSecret)).status).toBe(200);
    const identity = newKey();
    const loginSecret = secret();
    expect((await accept(token, identity, loginSecret)).json()).toEqual({ account: 'alice', role: 'user' });
    expect(answer(await login(alice.loginSecret))).toEqual([401, 'wrong-password']);
    expect((await login(loginSecret)).json()['keys']).toMatchObject({ identityKey: identity.publicKey });
    const id = keyId(alice.identity.publicKey);
    expect(JSON.parse((await locked()).body.toString())).toEqual([
      { id, identityKey: alice.identity.publicKey, byRecoveryCode: expect.any(String), hasProfile: true },
    ]);
    const old = await server.request('lockedProfile', { token: alice.token, params: { id } });
    expect(old.body).toEqual(file);
    // The old profile counts as none: the next one begins at 1, by the new identity.
    expect(answer(await server.request('profile', { token: alice.token }))).toEqual([404, 'not-found']);
    const next = sealProfile(profileOf(1), { ...keys, identity });
    const put = await server.request('setProfile', { token: alice.token, query: { after: 0 }, body: next });
    expect(put.status).toBe(200);
    expect(await server.repository.catalogue.people.accessOf('alice')).toEqual([{ name: 'debian', access: 'use' }]);
    expect(await problems()).toEqual([]);
  });
  test('works once, not with the old identity, not by an invitation of before the account, not after another reset', async () => {
    const first = await reset();
    expect(answer(await accept(first, alice.identity))).toEqual([400, 'bad-request']);
    const second = await reset();
    expect(answer(await accept(first, newKey()))).toEqual([409, 'exists']);
    expect((await accept(second, newKey())).status).toBe(200);
    expect(answer(await accept(second, newKey()))).toEqual([404, 'not-found']);
    const { people } = server.repository.catalogue;
    const token = secret();
    const tokenHash = (await import('../caller.js')).secretHash(token);
    await people.addInvitation({
      tokenHash,
      account: 'alice',
      role: 'admin',
      appliances: [],
      createdAt: 1,
      expiresAt: server.clock.nowSeconds() + 60,
    });
    expect((await kind(token)).json()).toEqual({ account: 'alice', isReset: false });
    expect(answer(await accept(token, newKey()))).toEqual([409, 'exists']);
  });
  test('is void once the person has shown the identity key', async () => {
    const token = await reset();
    const nonce = String(
      (
        await server.request('recoveryChallenge', { body: { account: 'alice', recoverySecret: alice.recoverySecret } })
      ).json()['nonce'],
    );
    expect((await server.request('loginRecovery', { body: proven(changeOf(), nonce) })).status).toBe(200);
    expect(answer(await accept(token, newKey()))).toEqual([409, 'exists']);
  });
  test('of nobody, of a revoked account, and for the seventeenth time is refused', async () => {
    const times = { now: server.clock.nowSeconds(), seconds: 600 };
    await expect(resetAccount(server.repository, 'nobody', times)).rejects.toThrow('There is no account');
    for (let count = 0; count < 16; count += 1) await acceptReset();
    await expect(reset()).rejects.toThrow('make a new account');
    expect(JSON.parse((await locked()).body.toString())).toHaveLength(16);
    await server.repository.catalogue.people.revokeAccount('alice', 1);
    await expect(reset()).rejects.toThrow('There is no account');
  });
  test('an unknown or late invitation has no kind, and what is locked is of the account alone', async () => {
    expect(answer(await kind(secret()))).toEqual([404, 'not-found']);
    const token = await reset();
    server.clock.advance(600);
    expect(answer(await kind(token))).toEqual([404, 'not-found']);
    await acceptReset();
    const bob = await server.join('bob', 'user');
    const id = keyId(alice.identity.publicKey);
    expect((await server.request('lockedKeys', { token: bob.token })).body.toString()).toBe('[]');
    expect(answer(await server.request('lockedProfile', { token: bob.token, params: { id } }))).toEqual([
      404,
      'not-found',
    ]);
  });
});

test('keys of before there were records are read as they are, and have no recovery', async () => {
  const { blobStore, catalogue } = server.repository;
  const account = await catalogue.people.account('alice');
  if (account === undefined) throw new Error('no account');
  await blobStore.remove(keysRecordName('alice'));
  expect(await readKeys(blobStore, account)).toMatchObject({
    keys: { identityKey: alice.identity.publicKey },
    passwordChangedAt: account.createdAt,
    recoverySecretHash: null,
  });
});
