/**
 * A person's keys: the sealed profile, changes of password and recovery code, recovery, and what a reset has locked
 * (docs/formats/keys.md, profile.md). The server can open none of it; it checks who signed, and the order.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { type FastifyInstance } from 'fastify';
import { CollectiveError, type Digest, digestBytes, sha256 } from '@collective/shared';
import { secretHash } from '../caller.js';
import { type Account } from '../catalogue/catalogue.js';
import { changeKeys } from '../repository/change-keys.js';
import { readKeys } from '../repository/keys-record.js';
import { readProfile, storeProfile } from '../repository/profile-store.js';
import { isReset, readLocked } from '../repository/reset-account.js';
import { lockedProfileName } from '../storage/blob-names.js';
import { countLogin } from './count-login.js';
import { registerRoute, type RouteContext } from './register-route.js';

export const registerKeysRoutes = (app: FastifyInstance, context: RouteContext): void => {
  registerRecoveryRoutes(app, context);
  registerProfileRoutes(app, context);
  registerLockedRoutes(app, context);
};

/** Nonces are kept by device; those of a recovery belong to the account. */
const recoveryOf = (account: string): Digest => sha256(Buffer.from(`recovery of ${account}`, 'utf8'));

const registerRecoveryRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;
  const { blobStore, clock, limits } = repository;
  const { people } = repository.catalogue;
  const noSecret = randomBytes(32);

  registerRoute(app, context, 'invitationKind', async ({ body }) => {
    const invitation = await people.invitation(secretHash(body.token));
    if (invitation === undefined || invitation.expiresAt <= clock.nowSeconds()) {
      throw new CollectiveError(
        'not-found',
        'This invitation is used or expired; who has an account logs in with the join link without .invite',
      );
    }
    const { account, tokenHash } = invitation;
    return { account, isReset: await isReset(blobStore, account, tokenHash) };
  });
  registerRoute(app, context, 'recoveryChallenge', async ({ body, address }) => {
    countLogin(context, body.account, address);
    const account = await people.account(body.account);
    const known = account === undefined ? undefined : await readKeys(blobStore, account);
    const wanted = known?.recoverySecretHash ?? undefined;
    const isRight = timingSafeEqual(
      wanted === undefined ? noSecret : digestBytes(wanted),
      digestBytes(secretHash(body.recoverySecret)),
    );
    const byRecoveryCode = known?.keys.byRecoveryCode ?? undefined;
    if (wanted === undefined || byRecoveryCode === undefined || !isRight) throw new CollectiveError('wrong-password');
    const nonce = randomBytes(32).toString('base64url');
    const expiresAt = clock.nowSeconds() + limits.nonceSeconds;
    const kept = { hash: secretHash(nonce), device: recoveryOf(body.account), expiresAt };
    await people.addNonce(kept, limits.noncesPerDeviceMax);
    return { nonce, byRecoveryCode };
  });
  registerRoute(app, context, 'loginRecovery', async ({ body, address }) => {
    const { account, password } = body.change;
    countLogin(context, account, address);
    if (password === null) throw new CollectiveError('bad-request', 'A recovery sets a new password');
    const options = { nonceOwner: recoveryOf(account), refusal: 'wrong-password' } as const;
    return { changedAt: await changeKeys(repository, body, options) };
  });
  registerRoute(app, context, 'changeKeys', async ({ body, caller }) => {
    if (body.change.account !== caller.account || caller.device === undefined) {
      throw new CollectiveError('not-allowed', 'These are the keys of another account');
    }
    const options = { nonceOwner: caller.device, refusal: 'bad-signature' } as const;
    return { changedAt: await changeKeys(repository, body, options) };
  });
};

const registerProfileRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;

  registerRoute(app, context, 'profile', async ({ caller }) => {
    const profile = await readProfile(repository.blobStore, await accountOf(context, caller.account));
    if (profile === undefined) throw new CollectiveError('not-found', `${caller.account} has no profile yet`);
    return profile.bytes;
  });
  registerRoute(app, context, 'setProfile', async ({ caller, query, body }) => ({
    number: await storeProfile(repository, caller.account, { after: query.after, bytes: body }),
  }));
};

const registerLockedRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { blobStore } = context.repository;

  registerRoute(app, context, 'lockedKeys', async ({ caller }) => {
    const locked = await readLocked(blobStore, await accountOf(context, caller.account));
    return locked.map(({ id, keys, hasProfile }) => ({
      id,
      identityKey: keys.identityKey,
      byRecoveryCode: keys.byRecoveryCode,
      hasProfile,
    }));
  });
  registerRoute(app, context, 'lockedProfile', async ({ caller, params }) => {
    const bytes = await blobStore.read(lockedProfileName(caller.account, params.id));
    if (bytes === undefined) throw new CollectiveError('not-found', 'There is no such locked profile');
    return bytes;
  });
};

const accountOf = async ({ repository }: RouteContext, name: string): Promise<Account> => {
  const account = await repository.catalogue.people.account(name);
  if (account === undefined) throw new CollectiveError('not-logged-in');
  return account;
};
