import { openDeviceCertificate, publishingKeyMessage, type RouteName } from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  newKey,
  type TestPerson,
  type TestReply,
  TestRepository,
  type TestRequest,
} from '../testing/test-repository.js';

let server: TestRepository;
let admin: TestPerson;
let user: TestPerson;
beforeEach(async () => {
  server = await TestRepository.open();
  admin = await server.join('root', 'admin');
  user = await server.join('ursula', 'user', [{ name: 'debian', access: 'use' }]);
});
afterEach(() => server.close());

const answer = (reply: TestReply): unknown[] => [reply.status, reply.json()['code']];
const list = (reply: TestReply): unknown => JSON.parse(reply.body.toString());

describe('my account', () => {
  test('says who I am, what I may use, and which devices I have', async () => {
    expect((await server.request('me', { token: user.token })).json()).toMatchObject({
      account: 'ursula',
      role: 'user',
      appliances: [{ name: 'debian', access: 'use' }],
      identityKey: user.identity.publicKey,
      passwordParameters: { logN: 17 },
      passwordChangedAt: server.clock.nowSeconds(),
    });
    const { clock } = server;
    expect(list(await server.request('myDevices', { token: user.token }))).toEqual([
      {
        device: user.deviceId,
        name: 'test device',
        createdAt: clock.nowSeconds(),
        lastSeenAt: clock.nowSeconds(),
        revoked: false,
      },
    ]);
  });
  test("the certificates of my devices, of revoked ones too, and nobody else's", async () => {
    const certificates = (await server.request('myDeviceCertificates', { token: user.token })).json();
    const [own, ...others] = certificates as unknown as { device: string; certificate: string }[];
    expect(others).toEqual([]);
    expect(own?.device).toBe(user.deviceId);
    const opened = openDeviceCertificate(Buffer.from(own?.certificate ?? '', 'base64'), user.identity.publicKey);
    expect(opened.deviceKey).toBe(user.device.publicKey);
    expect((await server.request('myDeviceCertificates', {})).status).toBe(401);
  });
  test("somebody else's device does not exist for me", async () => {
    const reply = await server.request('revokeDevice', { token: user.token, params: { device: admin.deviceId } });
    expect(answer(reply)).toEqual([404, 'not-found']);
    expect((await server.request('me', { token: admin.token })).status).toBe(200);
  });
  test('a publishing key needs the role and a proof by the key, for this account and repository', async () => {
    const bob = await server.join('bob', 'publisher');
    const { identity } = server.repository;
    const key = newKey();
    const set = async (token: string, account: string, signer = key): Promise<unknown[]> => {
      const proof = signer.sign(publishingKeyMessage({ identity, account })).toString('base64url');
      return answer(await server.request('setPublishingKey', { token, body: { key: key.publicKey, proof } }));
    };
    expect(await set(user.token, 'ursula')).toEqual([403, 'not-allowed']);
    expect(await set(bob.token, 'root')).toEqual([400, 'bad-signature']);
    expect(await set(bob.token, 'bob', newKey())).toEqual([400, 'bad-signature']);
    expect((await server.repository.catalogue.people.account('bob'))?.publishingKey).toBe(bob.publishing.publicKey);
    expect(await set(bob.token, 'bob')).toEqual([200, undefined]);
    expect((await server.repository.catalogue.people.account('bob'))?.publishingKey).toBe(key.publicKey);
  });
});

describe('administration', () => {
  const everything: readonly [RouteName, TestRequest][] = [
    ['createInvitation', { body: { account: 'new', role: 'user', appliances: [] } }],
    ['accounts', {}],
    ['revokeAccount', { params: { account: 'ursula' } }],
    ['setAccess', { params: { account: 'ursula', appliance: 'tiny' }, body: { access: 'use' } }],
    ['removeAccess', { params: { account: 'ursula', appliance: 'debian' } }],
  ];
  test.each(everything)('%s is for administrators only, and not without a token', async (name, request) => {
    const publisher = await server.join('bob', 'publisher');
    for (const { token } of [user, publisher])
      expect(answer(await server.request(name, { ...request, token }))).toEqual([403, 'not-allowed']);
    expect(answer(await server.request(name, request))).toEqual([401, 'not-logged-in']);
    expect((await server.request(name, { ...request, token: admin.token })).status).toBe(200);
  });
  test('an invitation by an administrator works, and not for a name that is taken', async () => {
    const body = { account: 'new', role: 'user', appliances: [{ name: 'debian', access: 'use' }] };
    const reply = await server.request('createInvitation', { token: admin.token, body });
    expect(reply.json()).toMatchObject({ expiresAt: server.clock.nowSeconds() + 7 * 86_400 });
    expect(await server.repository.catalogue.people.accessOf('new')).toEqual([]);
    const again = await server.request('createInvitation', {
      token: admin.token,
      body: { ...body, account: 'ursula' },
    });
    expect(answer(again)).toEqual([409, 'exists']);
    const bad = await server.request('createInvitation', { token: admin.token, body: { ...body, role: 'god' } });
    expect(answer(bad)).toEqual([400, 'bad-request']);
  });
  test('access is given and taken at once', async () => {
    const params = { account: 'ursula', appliance: 'tiny' };
    await server.request('setAccess', { token: admin.token, params, body: { access: 'use' } });
    expect((await server.request('me', { token: user.token })).json()['appliances']).toHaveLength(2);
    await server.request('removeAccess', { token: admin.token, params });
    expect((await server.request('me', { token: user.token })).json()['appliances']).toHaveLength(1);
    expect(answer(await server.request('removeAccess', { token: admin.token, params }))).toEqual([404, 'not-found']);
    const nobody = { params: { account: 'nobody', appliance: 'tiny' }, body: { access: 'use' } };
    expect(answer(await server.request('setAccess', { token: admin.token, ...nobody }))).toEqual([404, 'not-found']);
  });
  test('a revoked account is listed as such, the last administrator cannot be revoked', async () => {
    await server.request('revokeAccount', { token: admin.token, params: { account: 'ursula' } });
    expect(answer(await server.request('me', { token: user.token }))).toEqual([401, 'revoked']);
    expect(list(await server.request('accounts', { token: admin.token }))).toMatchObject([
      { account: 'root', role: 'admin', revoked: false },
      { account: 'ursula', role: 'user', revoked: true, appliances: [{ name: 'debian', access: 'use' }] },
    ]);
    expect(answer(await server.request('revokeAccount', { token: admin.token, params: { account: 'root' } }))).toEqual([
      409,
      'conflict',
    ]);
    const nobody = await server.request('revokeAccount', { token: admin.token, params: { account: 'nobody' } });
    expect(answer(nobody)).toEqual([404, 'not-found']);
  });
});
