/**
 * Reset by an administrator: an invitation for an account that is there. Whoever accepts it gets the account with a new
 * person's secret; the old keys and the old profile are kept aside, locked: they open with the old recovery code, or on a
 * device that still holds the old secret. Nothing of the person changes before the invitation is accepted.
 *
 * The marker `reset.json` says which invitation is a reset: one that was made before the account was there never is.
 */
import { randomBytes } from 'node:crypto';
import { Type } from '@collective/schema';
import {
  CollectiveError,
  type Digest,
  digestField,
  documentCodec,
  encodeKeysFile,
  decodeKeysFile,
  isDigest,
  keyId,
  type KeysFile,
  nullable,
  PROFILE_FORMER_IDENTITIES_MAX,
  strictObject,
} from '@collective/shared';
import { secretHash } from '../caller.js';
import { type Account, type Catalogue, type PasswordChange } from '../catalogue/catalogue.js';
import { lockedFolder, lockedKeysName, lockedProfileName, resetName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { readKeys, writeKeys } from './keys-record.js';
import { readProfile } from './profile-store.js';
import { type RepositoryParts } from './repository.js';

const codec = documentCodec(
  strictObject({
    format: Type.Literal(1),
    /** SHA-256 of the invitation's token; null: no reset is under way. */
    invitation: nullable(digestField),
  }),
  { what: 'reset marker', bytesMax: 1_024 },
);

type Stores = { readonly blobStore: BlobStore; readonly catalogue: Catalogue };

/** The invitation's token, which is kept nowhere. Errors: `not-found` for no account or a revoked one, `conflict` after 16 resets. */
export const resetAccount = async (
  { blobStore, catalogue }: Stores,
  name: string,
  times: { readonly now: number; readonly seconds: number },
): Promise<{ readonly token: string; readonly expiresAt: number }> =>
  catalogue.exclusively(async () => {
    const account = await catalogue.people.account(name);
    if (account === undefined || account.revokedAt !== undefined)
      throw new CollectiveError('not-found', `There is no account ${name}`);
    await refuseTooMany(blobStore, name);
    const token = randomBytes(32).toString('base64url');
    const tokenHash = secretHash(token);
    const expiresAt = times.now + times.seconds;
    await catalogue.people.addInvitation({
      tokenHash,
      account: name,
      role: account.role,
      appliances: [],
      createdAt: times.now,
      expiresAt,
    });
    await blobStore.replace(resetName(name), codec.encode({ format: 1, invitation: tokenHash }));
    return { token, expiresAt };
  });

export const isReset = async (blobStore: BlobStore, account: string, invitation: Digest): Promise<boolean> =>
  (await readMarker(blobStore, account)) === invitation;

/** The person has shown that the secret is not lost. */
export const voidReset = async (blobStore: BlobStore, account: string): Promise<void> => {
  if ((await readMarker(blobStore, account)) === undefined) return;
  await blobStore.replace(resetName(account), codec.encode({ format: 1, invitation: null }));
};

/**
 * Accepts it: locks the old keys and the profile away, then changes keys and password as one step. Call it under the
 * catalogue's lock, with an invitation that has been looked at. Errors: `bad-request` when the new keys are of the old
 * identity: whoever has the old secret recovers instead.
 */
export const acceptReset = async (
  parts: Pick<RepositoryParts, 'blobStore' | 'catalogue' | 'clock'>,
  account: Account,
  accepted: {
    readonly invitation: Digest;
    readonly keys: KeysFile;
    readonly recoverySecretHash: Digest | null;
    readonly password: PasswordChange;
  },
): Promise<void> => {
  const { blobStore, catalogue, clock } = parts;
  const before = await readKeys(blobStore, account);
  if (before.keys.identityKey === accepted.keys.identityKey) {
    throw new CollectiveError('bad-request', 'A reset makes a new secret; who has the old one recovers the account');
  }
  await refuseTooMany(blobStore, account.name);
  const id = keyId(before.keys.identityKey);
  const profile = await readProfile(blobStore, account);
  if (profile !== undefined) await blobStore.replace(lockedProfileName(account.name, id), profile.bytes);
  await blobStore.replace(lockedKeysName(account.name, id), encodeKeysFile(before.keys));
  await writeKeys(
    blobStore,
    account,
    {
      keys: accepted.keys,
      recoverySecretHash: accepted.recoverySecretHash,
      passwordChangedAt: clock.nowSeconds(),
      loginSecretHash: accepted.password.loginSecretHash,
    },
    async () => {
      const done = await catalogue.people.acceptReset(accepted.invitation, accepted.password);
      if (!done) throw new CollectiveError('not-found', 'This invitation has been used meanwhile');
    },
  );
};

export type LockedKeys = { readonly id: Digest; readonly keys: KeysFile; readonly hasProfile: boolean };

/** What resets have locked, in the order of the ids; that of the present keys is what a broken-off reset left. */
export const readLocked = async (blobStore: BlobStore, account: Account): Promise<LockedKeys[]> => {
  const now = keyId((await readKeys(blobStore, account)).keys.identityKey);
  const locked: LockedKeys[] = [];
  for (const id of (await blobStore.list(lockedFolder(account.name))).filter(isDigest)) {
    const keys = id === now ? undefined : await blobStore.read(lockedKeysName(account.name, id));
    if (keys === undefined) continue;
    const hasProfile = (await blobStore.read(lockedProfileName(account.name, id))) !== undefined;
    locked.push({ id, keys: decodeKeysFile(keys), hasProfile });
  }
  return locked;
};

const refuseTooMany = async (blobStore: BlobStore, account: string): Promise<void> => {
  const resets = (await blobStore.list(lockedFolder(account))).length;
  if (resets < PROFILE_FORMER_IDENTITIES_MAX) return;
  throw new CollectiveError('conflict', `${account} was reset ${resets} times; make a new account instead`);
};

const readMarker = async (blobStore: BlobStore, account: string): Promise<Digest | undefined> => {
  const bytes = await blobStore.read(resetName(account));
  return bytes === undefined ? undefined : (codec.decode(bytes).invitation ?? undefined);
};
