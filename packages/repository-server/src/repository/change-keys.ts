/** A change of password or recovery code that the identity key has signed; see keys-record.ts for how it is kept. */
import {
  CollectiveError,
  type Digest,
  type ErrorCode,
  type KeyChange,
  keyChangeMessage,
  verifySignature,
} from '@collective/shared';
import { secretHash } from '../caller.js';
import { type Account } from '../catalogue/catalogue.js';
import { readKeys, writeKeys } from './keys-record.js';
import { type Repository } from './repository.js';
import { voidReset } from './reset-account.js';

export type ProvenChange = { readonly change: KeyChange; readonly nonce: string; readonly signature: string };

/**
 * Makes the change if the identity key has signed it over a nonce that was given to `nonceOwner`; returns when the
 * password was changed last. A reset that is under way is void: the person is here. Errors: `refusal` for whatever is
 * wrong with account, nonce or signature, all alike; `revoked`.
 */
export const changeKeys = async (
  repository: Repository,
  { change, nonce, signature }: ProvenChange,
  options: { readonly nonceOwner: Digest; readonly refusal: ErrorCode },
): Promise<number> => {
  const { blobStore, catalogue, clock, identity } = repository;
  const { people } = catalogue;
  const now = clock.nowSeconds();
  const isFresh = await people.takeNonce(secretHash(nonce), options.nonceOwner, now);
  return catalogue.exclusively(async () => {
    const account = await people.account(change.account);
    const before = account === undefined ? undefined : await readKeys(blobStore, account);
    const message = keyChangeMessage({ identity, nonce: Buffer.from(nonce, 'base64url'), change });
    const isSigned =
      before !== undefined && verifySignature(before.keys.identityKey, message, Buffer.from(signature, 'base64url'));
    if (account === undefined || before === undefined || !isFresh || !isSigned)
      throw new CollectiveError(options.refusal);
    if (account.revokedAt !== undefined) throw new CollectiveError('revoked');
    const passwordChangedAt = change.password === null ? before.passwordChangedAt : now;
    await writeKeys(
      blobStore,
      account,
      {
        keys: {
          ...before.keys,
          byPassword: change.password?.byPassword ?? before.keys.byPassword,
          byRecoveryCode: change.recovery?.byRecoveryCode ?? before.keys.byRecoveryCode,
        },
        recoverySecretHash:
          change.recovery === null ? before.recoverySecretHash : secretHash(change.recovery.recoverySecret),
        passwordChangedAt,
        loginSecretHash: change.password === null ? account.loginSecretHash : secretHash(change.password.loginSecret),
      },
      async () => setPassword(repository, account, change),
    );
    await voidReset(blobStore, account.name);
    return passwordChangedAt;
  });
};

const setPassword = async ({ catalogue }: Repository, account: Account, { password }: KeyChange): Promise<void> => {
  if (password === null) return;
  await catalogue.people.changePassword(account.name, {
    passwordParameters: JSON.stringify(password.parameters),
    loginSecretHash: secretHash(password.loginSecret),
  });
};
