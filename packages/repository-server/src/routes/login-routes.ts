/**
 * Accounts, logins, devices (docs/formats/keys.md). The server never sees a password: it keeps the SHA-256 of the login
 * secret, which is scrypt of the password. What guesses at names, secrets or tokens is counted, and an account that
 * does not exist answers like one that does.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { type FastifyInstance } from 'fastify';
import {
  CollectiveError,
  type Digest,
  deviceLoginMessage,
  digestBytes,
  keyId,
  openDeviceCertificate,
  type PasswordParameters,
  verifySignature,
} from '@collective/shared';
import { secretHash } from '../caller.js';
import { type TokenScope } from '../catalogue/catalogue.js';
import { readKeys, writeFirstKeys } from '../repository/keys-record.js';
import { type Repository } from '../repository/repository.js';
import { acceptReset, isReset } from '../repository/reset-account.js';
import { countLogin } from './count-login.js';
import { registerRoute, type RouteContext } from './register-route.js';

/** What the salt of an unknown account cannot be told from: the numbers that new accounts begin with. */
const parametersOfNobody = (nameSecret: Buffer, account: string): PasswordParameters => ({
  kdf: 'scrypt',
  logN: 17,
  r: 8,
  p: 1,
  salt: createHmac('sha256', nameSecret).update(account).digest().subarray(0, 16).toString('base64url'),
});

const newSecret = (): string => randomBytes(32).toString('base64url');

export const registerLoginRoutes = (app: FastifyInstance, context: RouteContext): void => {
  registerPasswordRoutes(app, context);
  registerDeviceLoginRoutes(app, context);
  registerEnrolRoutes(app, context);
};

const issueToken = async (
  { catalogue, clock, limits }: Repository,
  holder: { readonly account: string; readonly device: Digest | undefined; readonly scope: TokenScope },
): Promise<{ readonly token: string; readonly expiresAt: number }> => {
  const token = newSecret();
  const seconds = holder.scope === 'session' ? limits.sessionTokenSeconds : limits.enrolTokenSeconds;
  const expiresAt = clock.nowSeconds() + seconds;
  await catalogue.people.addToken({ ...holder, hash: secretHash(token), expiresAt });
  return { token, expiresAt };
};

const registerPasswordRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;
  const { people } = repository.catalogue;
  const noSecret = randomBytes(32);

  registerRoute(app, context, 'passwordParameters', async ({ params, address }) => {
    countLogin(context, params.account, address);
    const account = await people.account(params.account);
    const made = parametersOfNobody(repository.keys.nameSecret, params.account);
    return account === undefined ? made : JSON.parse(account.passwordParameters);
  });

  registerRoute(app, context, 'loginPassword', async ({ body, address }) => {
    countLogin(context, body.account, address);
    const account = await people.account(body.account);
    const wanted = account === undefined ? noSecret : digestBytes(account.loginSecretHash);
    const isRight = timingSafeEqual(wanted, digestBytes(secretHash(body.loginSecret)));
    if (account === undefined || !isRight) throw new CollectiveError('wrong-password');
    if (account.revokedAt !== undefined) throw new CollectiveError('revoked');
    const { keys } = await readKeys(repository.blobStore, account);
    const issued = await issueToken(repository, { account: account.name, device: undefined, scope: 'enrol' });
    return { ...issued, keys };
  });

  registerRoute(app, context, 'acceptInvitation', async ({ body, address }) => {
    countLogin(context, body.account, address);
    const tokenHash = secretHash(body.token);
    const recoverySecretHash = body.recoverySecret === null ? null : secretHash(body.recoverySecret);
    const refused = new CollectiveError(
      'not-found',
      'This invitation is used, expired, or for another account; who has an account logs in with the join link without .invite',
    );
    // Under the lock, so that of two askers with one invitation the keys of the winner are kept.
    return repository.catalogue.exclusively(async () => {
      const invitation = await people.invitation(tokenHash);
      const now = repository.clock.nowSeconds();
      if (invitation === undefined || invitation.account !== body.account || invitation.expiresAt <= now) throw refused;
      const passwordParameters = JSON.stringify(body.passwordParameters);
      const loginSecretHash = secretHash(body.loginSecret);
      const known = await people.account(body.account);
      if (known !== undefined) {
        if (known.revokedAt !== undefined || !(await isReset(repository.blobStore, known.name, tokenHash)))
          throw new CollectiveError('exists', `There is an account ${body.account} already`);
        const password = { passwordParameters, loginSecretHash };
        await acceptReset(repository, known, { invitation: tokenHash, keys: body.keys, recoverySecretHash, password });
        return { account: known.name, role: known.role };
      }
      const first = { keys: body.keys, passwordChangedAt: now, recoverySecretHash, loginSecretHash };
      await writeFirstKeys(repository.blobStore, body.account, first);
      const accepted = await people.acceptInvitation(tokenHash, {
        name: body.account,
        role: invitation.role,
        createdAt: now,
        revokedAt: undefined,
        passwordParameters,
        loginSecretHash,
        publishingKey: undefined,
      });
      if (!accepted) throw refused;
      return { account: body.account, role: invitation.role };
    });
  });
};

const registerDeviceLoginRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;
  const { people } = repository.catalogue;

  registerRoute(app, context, 'loginChallenge', async ({ body }) => {
    const nonce = newSecret();
    const device = await people.device(body.device);
    if (device !== undefined) {
      const expiresAt = repository.clock.nowSeconds() + repository.limits.nonceSeconds;
      const kept = { hash: secretHash(nonce), device: device.id, expiresAt };
      await people.addNonce(kept, repository.limits.noncesPerDeviceMax);
    }
    return { nonce };
  });

  registerRoute(app, context, 'loginDevice', async ({ body }) => {
    const now = repository.clock.nowSeconds();
    const device = await people.device(body.device);
    const isFresh = await people.takeNonce(secretHash(body.nonce), body.device, now);
    const nonce = Buffer.from(body.nonce, 'base64url');
    const message = deviceLoginMessage({ identity: repository.identity, device: body.device, nonce });
    const isSigned =
      device !== undefined && verifySignature(device.publicKey, message, Buffer.from(body.signature, 'base64url'));
    if (device === undefined || !isFresh || !isSigned) {
      throw new CollectiveError('not-logged-in', 'The device, its challenge or its signature is not valid');
    }
    const account = await people.account(device.account);
    if (account === undefined || account.revokedAt !== undefined) throw new CollectiveError('revoked');
    if (device.revokedAt !== undefined) throw new CollectiveError('device-revoked');
    await people.deviceSeen(device.id, now);
    const issued = await issueToken(repository, { account: account.name, device: device.id, scope: 'session' });
    return { ...issued, account: account.name, role: account.role };
  });
};

const registerEnrolRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;
  const { people } = repository.catalogue;

  registerRoute(app, context, 'registerDevice', async ({ body, caller }) => {
    const account = await people.account(caller.account);
    if (account === undefined) throw new CollectiveError('not-logged-in');
    const { keys } = await readKeys(repository.blobStore, account);
    const bytes = Buffer.from(body.certificate, 'base64');
    const certificate = openDeviceCertificate(bytes, keys.identityKey);
    if (certificate.account !== caller.account || certificate.repository !== repository.identity) {
      throw new CollectiveError('untrusted', 'The certificate is for another account or repository');
    }
    const id = keyId(certificate.deviceKey);
    const known = await people.device(id);
    if (known !== undefined) {
      // The same again: the answer got lost. A revoked key never comes back.
      if (known.account !== caller.account) throw new CollectiveError('exists', 'This device key is in use');
      if (known.revokedAt !== undefined) throw new CollectiveError('device-revoked');
      return { device: id };
    }
    const { devicesPerAccountMax } = repository.limits;
    const active = (await people.devicesOf(caller.account)).filter((device) => device.revokedAt === undefined);
    if (active.length >= devicesPerAccountMax) {
      throw new CollectiveError('conflict', `${caller.account} has ${active.length} devices; revoke one first`);
    }
    await people.addDevice({
      id,
      account: caller.account,
      publicKey: certificate.deviceKey,
      name: certificate.deviceName,
      createdAt: repository.clock.nowSeconds(),
      lastSeenAt: undefined,
      revokedAt: undefined,
      certificate: bytes,
    });
    return { device: id };
  });
};
