/**
 * Recovery (docs/formats/keys.md): a secret of the code shows the server that the code is at hand, the code opens the
 * wrapped secret that it then hands out, and the identity key of that signs a new password. Neither code nor the
 * person's secret travels.
 */
import {
  CollectiveError,
  derivePasswordKeys,
  derivePersonKeys,
  hasCode,
  keyChangeMessage,
  newPasswordParameters,
  parseRecoveryCode,
  recoveryKey,
  recoverySecret,
  unwrap,
  wrap,
  type Digest,
  type KeyChange,
  type PasswordKeys,
  type PasswordParameters,
} from '@collective/shared';
import type { RepositoryClient } from '../repository/repository-client.js';
import { erase } from './enrol.js';

/**
 * Sets a new password with the recovery code. The code stays good. Errors: `malformed` for a typing error;
 * `wrong-password` when the code does not open this account, or there is none; `rate-limited`.
 */
export async function recoverAccount(
  client: RepositoryClient,
  options: {
    readonly identity: Digest;
    readonly account: string;
    readonly recoveryCode: string;
    readonly password: string;
  },
): Promise<void> {
  const { identity, account, password } = options;
  const code = parseRecoveryCode(options.recoveryCode);
  const shown = recoverySecret(code).toString('base64url');
  const { nonce, byRecoveryCode } = await client
    .call('recoveryChallenge', { body: { account, recoverySecret: shown } })
    .catch(wrongCode(account));
  const secret = unwrap(recoveryKey(code), Buffer.from(byRecoveryCode, 'base64url'));
  try {
    const { change, passwordKeys } = await changeOfPassword(account, { password, secret });
    erase(passwordKeys);
    const message = keyChangeMessage({ identity, nonce: Buffer.from(nonce, 'base64url'), change });
    const signature = derivePersonKeys(secret).identity.sign(message).toString('base64url');
    await client.call('loginRecovery', { body: { change, nonce, signature } });
  } finally {
    secret.fill(0);
    code.fill(0);
  }
}

export type NewPassword = {
  readonly change: KeyChange;
  readonly parameters: PasswordParameters;
  /** The caller erases them. */
  readonly passwordKeys: PasswordKeys;
};

/** A change that wraps the secret under a new password, with a new salt. Errors: `bad-request` for an impossible length. */
export async function changeOfPassword(
  account: string,
  { password, secret }: { readonly password: string; readonly secret: Buffer },
): Promise<NewPassword> {
  const parameters = newPasswordParameters();
  const passwordKeys = await derivePasswordKeys(password, parameters);
  const loginSecret = passwordKeys.loginSecret.toString('base64url');
  const byPassword = wrap(passwordKeys.wrappingKey, secret).toString('base64url');
  const change = { format: 1, account, recovery: null, password: { parameters, loginSecret, byPassword } } as const;
  return { change, parameters, passwordKeys };
}

/** A change that wraps the secret under a new recovery code, as typed or printed. Errors: `malformed`. */
export const changeOfRecoveryCode = (
  account: string,
  { recoveryCode, secret }: { readonly recoveryCode: string; readonly secret: Buffer },
): KeyChange => {
  const code = parseRecoveryCode(recoveryCode);
  const byRecoveryCode = wrap(recoveryKey(code), secret).toString('base64url');
  const shown = recoverySecret(code).toString('base64url');
  code.fill(0);
  return { format: 1, account, recovery: { recoverySecret: shown, byRecoveryCode }, password: null };
};

const wrongCode =
  (account: string) =>
  (error: unknown): never => {
    if (!hasCode(error, 'wrong-password')) throw error;
    throw new CollectiveError('wrong-password', `This recovery code does not open the account ${account}.`, {
      cause: error,
    });
  };
