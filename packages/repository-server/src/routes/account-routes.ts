/** A person's own account: who am I, my devices, my publishing key, logout. */
import { type FastifyInstance } from 'fastify';
import { CollectiveError, publishingKeyMessage, verifySignature } from '@collective/shared';
import { listAccess } from '../caller.js';
import { readKeys } from '../repository/keys-record.js';
import { registerRoute, type RouteContext } from './register-route.js';

export const registerAccountRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;
  const { people } = repository.catalogue;

  registerRoute(app, context, 'logout', async ({ caller }) => {
    await people.removeToken(caller.tokenHash);
    return {};
  });
  registerRoute(app, context, 'me', async ({ caller }) => {
    const account = await people.account(caller.account);
    if (account === undefined) throw new CollectiveError('not-logged-in');
    const { keys, passwordChangedAt } = await readKeys(repository.blobStore, account);
    return {
      account: caller.account,
      role: caller.role,
      appliances: await listAccess(repository, caller),
      identityKey: keys.identityKey,
      passwordParameters: JSON.parse(account.passwordParameters),
      passwordChangedAt,
    };
  });
  registerRoute(app, context, 'myDevices', async ({ caller }) =>
    (await people.devicesOf(caller.account)).map((device) => ({
      device: device.id,
      name: device.name,
      createdAt: device.createdAt,
      lastSeenAt: device.lastSeenAt ?? null,
      revoked: device.revokedAt !== undefined,
    })),
  );
  registerRoute(app, context, 'myDeviceCertificates', async ({ caller }) =>
    (await people.devicesOf(caller.account)).map(({ id, certificate }) => ({
      device: id,
      certificate: Buffer.from(certificate).toString('base64'),
    })),
  );
  registerRoute(app, context, 'revokeDevice', async ({ caller, params }) => {
    const device = await people.device(params.device);
    if (device?.account !== caller.account) throw new CollectiveError('not-found', 'You have no such device');
    await people.revokeDevice(device.id, repository.clock.nowSeconds());
    return {};
  });
  registerRoute(app, context, 'setPublishingKey', async ({ caller, body }) => {
    if (caller.role === 'user') throw new CollectiveError('not-allowed', 'Only publishers have a publishing key');
    const message = publishingKeyMessage({ identity: repository.identity, account: caller.account });
    if (!verifySignature(body.key, message, Buffer.from(body.proof, 'base64url'))) {
      throw new CollectiveError('bad-signature', 'The proof is not a signature by this key for this account');
    }
    await people.setPublishingKey(caller.account, body.key);
    return {};
  });
};
