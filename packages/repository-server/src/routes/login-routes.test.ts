import { randomBytes } from 'node:crypto';
import { deviceLoginMessage, keyId, newPasswordParameters, type Role, sha256 } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { inviteAccount } from '../repository/invite-account.js';
import { keysFileOf, newKey, type TestPerson, type TestReply, TestRepository } from '../testing/test-repository.js';

let server: TestRepository;
let alice: TestPerson;
beforeEach(async () => {
  server = await TestRepository.open({
    limits: { loginsPerAddressAndAccount: 5, loginsPerAccount: 12, loginsPerAddress: 60 },
  });
  alice = await server.join('alice', 'user', [{ name: 'debian', access: 'use' }]);
  server.clock.advance(60);
});
afterEach(() => server.close());

const secret = (): string => randomBytes(32).toString('base64url');
const answer = (reply: TestReply): unknown[] => [reply.status, reply.json()['code']];
const invite = async (account: string, role: Role = 'user'): Promise<string> => {
  const { catalogue, clock } = server.repository;
  return (await inviteAccount(catalogue, { account, role, appliances: [] }, { now: clock.nowSeconds(), seconds: 100 }))
    .token;
};
const accept = (token: string, account: string, change: Record<string, unknown> = {}): Promise<TestReply> =>
  server.request('acceptInvitation', {
    body: {
      token,
      account,
      passwordParameters: newPasswordParameters(),
      loginSecret: secret(),
      keys: keysFileOf(newKey()),
      recoverySecret: null,
      ...change,
    },
  });

describe('invitations', () => {
  test('make an account once; a second asker, another account, a wrong token and a late one get the same answer', async () => {
    const token = await invite('bob', 'publisher');
    expect(answer(await accept(token, 'carol'))).toEqual([404, 'not-found']);
    expect(answer(await accept(secret(), 'bob'))).toEqual([404, 'not-found']);
    expect((await accept(token, 'bob')).json()).toEqual({ account: 'bob', role: 'publisher' });
    expect(answer(await accept(token, 'bob'))).toEqual([404, 'not-found']);
    const late = await invite('dora');
    server.clock.advance(100);
    expect(answer(await accept(late, 'dora'))).toEqual([404, 'not-found']);
  });
  test('two askers with one invitation: one gets the account, and the keys that are kept are the ones of the winner', async () => {
    const token = await invite('bob');
    const askers = [newKey(), newKey()].map((identity) => ({ identity, loginSecret: secret() }));
    const replies = await Promise.all(
      askers.map(({ identity, loginSecret }) => accept(token, 'bob', { keys: keysFileOf(identity), loginSecret })),
    );
    expect(replies.map(({ status }) => status).sort()).toEqual([200, 404]);
    const winner = askers[replies.findIndex(({ status }) => status === 200)];
    const login = await server.request('loginPassword', { body: { account: 'bob', loginSecret: winner?.loginSecret } });
    expect(login.json()['keys']).toMatchObject({ identityKey: winner?.identity.publicKey });
  });
  test('with weak password parameters, an unknown field, a missing field or a broken name are refused', async () => {
    const token = await invite('bob');
    for (const change of [
      { passwordParameters: { ...newPasswordParameters(), logN: 10 } },
      { role: 'admin' },
      { keys: undefined },
      { account: '../bob' },
      { loginSecret: 'short' },
    ]) {
      expect(answer(await accept(token, 'bob', change))).toEqual([400, 'bad-request']);
    }
    expect((await accept(token, 'bob')).status).toBe(200);
  });
});

describe('password login', () => {
  const login = (account: string, loginSecret: string, address?: string): Promise<TestReply> =>
    server.request('loginPassword', { body: { account, loginSecret }, ...(address === undefined ? {} : { address }) });

  test('the right secret gets the wrapped keys and a token that may only enrol', async () => {
    const reply = await login('alice', alice.loginSecret);
    expect(reply.status).toBe(200);
    expect(reply.json()['keys']).toMatchObject({ format: 1, identityKey: alice.identity.publicKey });
    expect(reply.json()['expiresAt']).toBe(server.clock.nowSeconds() + 600);
    const token = String(reply.json()['token']);
    expect(answer(await server.request('me', { token }))).toEqual([403, 'not-allowed']);
    expect(answer(await server.request('heads', { token }))).toEqual([403, 'not-allowed']);
  });
  test('a wrong secret and an unknown account cannot be told apart', async () => {
    const [wrong, unknown] = [await login('alice', secret()), await login('nobody', secret())];
    expect(wrong.status).toBe(401);
    expect([unknown.status, unknown.body.toString()]).toEqual([wrong.status, wrong.body.toString()]);
  });
  test('password parameters of an unknown account have the same shape and stay the same', async () => {
    const ask = async (account: string): Promise<Record<string, unknown>> =>
      (await server.request('passwordParameters', { params: { account } })).json();
    const [known, unknown, again, other] = [
      await ask('alice'),
      await ask('nobody'),
      await ask('nobody'),
      await ask('noone'),
    ];
    expect(Object.keys(unknown)).toEqual(Object.keys(known));
    expect({ ...unknown, salt: '' }).toEqual({ ...known, salt: '' });
    expect(again).toEqual(unknown);
    expect(other['salt']).not.toBe(unknown['salt']);
    expect(String(unknown['salt'])).toHaveLength(String(known['salt']).length);
  });
  test('guessing is slowed per address and account, per account over all addresses, and per address over all accounts', async () => {
    for (let count = 0; count < 5; count += 1) expect((await login('alice', secret())).status).toBe(401);
    const limited = await login('alice', alice.loginSecret);
    expect(answer(limited)).toEqual([429, 'rate-limited']);
    expect(Number(limited.headers['retry-after'])).toBeGreaterThan(0);
    expect((await login('alice', alice.loginSecret, '192.0.2.2')).status).toBe(200);
    const statuses: number[] = [];
    for (let count = 0; count < 10; count += 1)
      statuses.push((await login('alice', secret(), `198.51.100.${count}`)).status);
    expect(statuses.at(-1)).toBe(429);
    const many: number[] = [];
    for (let count = 0; count < 70; count += 1)
      many.push((await login(`nobody${count}`, secret(), '203.0.113.1')).status);
    expect([many[0], many.at(-1)]).toEqual([401, 429]);
    server.clock.advance(60);
    expect((await login('alice', alice.loginSecret)).status).toBe(200);
  });
  test('a revoked account is told so only with the right secret', async () => {
    await server.repository.catalogue.people.revokeAccount('alice', 1);
    expect(answer(await login('alice', alice.loginSecret))).toEqual([401, 'revoked']);
    expect(answer(await login('alice', secret()))).toEqual([401, 'wrong-password']);
  });
});

describe('device login', () => {
  const challenge = async (device: string): Promise<string> =>
    String((await server.request('loginChallenge', { body: { device } })).json()['nonce']);
  const answerWith = async (
    nonce: string,
    change: { readonly key?: typeof alice.device; readonly identity?: string } = {},
  ): Promise<TestReply> => {
    const message = deviceLoginMessage({
      identity: change.identity === undefined ? server.repository.identity : sha256(Buffer.from(change.identity)),
      device: alice.deviceId,
      nonce: Buffer.from(nonce, 'base64url'),
    });
    const signature = (change.key ?? alice.device).sign(message).toString('base64url');
    return server.request('loginDevice', { body: { device: alice.deviceId, nonce, signature } });
  };

  test('a signed nonce gets a session for an hour; the nonce works once', async () => {
    const nonce = await challenge(alice.deviceId);
    const reply = await answerWith(nonce);
    expect(reply.json()).toMatchObject({
      account: 'alice',
      role: 'user',
      expiresAt: server.clock.nowSeconds() + 3_600,
    });
    expect((await server.request('me', { token: String(reply.json()['token']) })).status).toBe(200);
    expect(answer(await answerWith(nonce))).toEqual([401, 'not-logged-in']);
  });
  test('another key, another server, a late nonce, an invented nonce and an unknown device get the same answer', async () => {
    const refused = [
      await answerWith(await challenge(alice.deviceId), { key: newKey() }),
      await answerWith(await challenge(alice.deviceId), { identity: 'other' }),
      await answerWith(secret()),
      await server.tryDeviceLogin(newKey()),
    ];
    const nonce = await challenge(alice.deviceId);
    server.clock.advance(60);
    refused.push(await answerWith(nonce));
    expect(new Set(refused.map((reply) => reply.body.toString())).size).toBe(1);
    expect(refused.map(({ status }) => status)).toEqual(refused.map(() => 401));
  });
  test('a revoked device cannot log in, its token is dead at once, and its key cannot be registered again', async () => {
    const token = await server.deviceLogin(alice.device);
    const other = newKey();
    await server.registerDevice({ ...alice, device: other });
    const otherToken = await server.deviceLogin(other);
    const revoked = await server.request('revokeDevice', { token: otherToken, params: { device: alice.deviceId } });
    expect(revoked.status).toBe(200);
    expect(answer(await server.request('me', { token }))).toEqual([401, 'device-revoked']);
    expect(answer(await server.tryDeviceLogin(alice.device))).toEqual([401, 'device-revoked']);
    await expect(server.registerDevice(alice)).rejects.toThrow(/revoked/);
    expect((await server.request('me', { token: otherToken })).status).toBe(200);
  });
  test('the tokens of a revoked account are dead at once, on every device', async () => {
    await server.repository.catalogue.people.revokeAccount('alice', 1);
    expect(answer(await server.request('me', { token: alice.token }))).toEqual([401, 'revoked']);
    expect(answer(await server.tryDeviceLogin(alice.device))).toEqual([401, 'revoked']);
  });
  test('a session ends after its hour, and at logout', async () => {
    const token = await server.deviceLogin(alice.device);
    await server.request('logout', { token });
    expect(answer(await server.request('me', { token }))).toEqual([401, 'not-logged-in']);
    const second = await server.deviceLogin(alice.device);
    server.clock.advance(3_600);
    expect(answer(await server.request('me', { token: second }))).toEqual([401, 'token-expired']);
  });
});

describe('registering a device', () => {
  const enrol = async (certificate: Buffer): Promise<unknown[]> => {
    const login = await server.request('loginPassword', { body: { account: 'alice', loginSecret: alice.loginSecret } });
    return answer(
      await server.request('registerDevice', {
        token: String(login.json()['token']),
        body: { certificate: certificate.toString('base64') },
      }),
    );
  };
  test('needs a certificate by the identity key of the account', async () => {
    expect(await enrol(server.certificate({ account: 'alice', identity: newKey(), device: newKey() }))).toEqual([
      403,
      'untrusted',
    ]);
    expect(await enrol(server.certificate({ account: 'bob', identity: alice.identity, device: newKey() }))).toEqual([
      403,
      'untrusted',
    ]);
    expect(await enrol(Buffer.from('{"payload":1}'))).toEqual([400, 'malformed']);
  });
  test('again with the same key is no error, with the key of somebody else it is', async () => {
    expect(await enrol(server.certificate({ ...alice }))).toEqual([200, undefined]);
    const bob = await server.join('bob', 'user');
    expect(await enrol(server.certificate({ ...alice, device: bob.device }))).toEqual([409, 'exists']);
    expect((await server.repository.catalogue.people.device(keyId(bob.device.publicKey)))?.account).toBe('bob');
  });
  test('is possible with a session too, and not without a token', async () => {
    const certificate = server.certificate({ ...alice, device: newKey() }).toString('base64');
    expect((await server.request('registerDevice', { body: { certificate } })).status).toBe(401);
    expect((await server.request('registerDevice', { token: alice.token, body: { certificate } })).status).toBe(200);
  });
  test('is limited in number', async () => {
    const few = await TestRepository.open({ limits: { devicesPerAccountMax: 1 } });
    const carol = await few.join('carol', 'user');
    await expect(few.registerDevice({ ...carol, device: newKey() })).rejects.toThrow(/conflict/);
    await few.close();
  });
});
