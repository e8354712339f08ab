/**
 * How a password becomes keys (docs/formats/keys.md): scrypt and its numbers. A server may ask for more work than the
 * minimum, never for less, and never for less than this machine has seen of the account.
 */
import { randomBytes } from 'node:crypto';
import { type Static, Type } from '@collective/schema';
import { documentCodec } from './document.js';
import { CollectiveError } from './errors.js';
import { base64urlField, integerField, strictObject } from './schema-fields.js';

export const PASSWORD_LOG_N_MIN = 17;
export const PASSWORD_LOG_N_MAX = 20;
export const PASSWORD_P_MAX = 4;
export const PASSWORD_SALT_BYTES = 16;

export const passwordParametersSchema = strictObject({
  kdf: Type.Literal('scrypt'),
  logN: integerField({ min: PASSWORD_LOG_N_MIN, max: PASSWORD_LOG_N_MAX }),
  r: Type.Literal(8),
  p: integerField({ min: 1, max: PASSWORD_P_MAX }),
  salt: base64urlField(PASSWORD_SALT_BYTES),
});
export type PasswordParameters = Static<typeof passwordParametersSchema>;

const codec = documentCodec(passwordParametersSchema, {
  what: 'password parameters',
  bytesMax: 1_024,
  error: 'weak-password-parameters',
});

/** What a new account begins with: N = 2^17, r = 8, p = 1, a random salt. */
export const newPasswordParameters = (): PasswordParameters => ({
  kdf: 'scrypt',
  logN: PASSWORD_LOG_N_MIN,
  r: 8,
  p: 1,
  salt: randomBytes(PASSWORD_SALT_BYTES).toString('base64url'),
});

/**
 * The parameters, if a client may use them: within the limits, and no weaker than `pinned` (what it first saw of the
 * account). Errors: `weak-password-parameters`.
 */
export const checkPasswordParameters = (value: unknown, pinned?: PasswordParameters): PasswordParameters => {
  const parameters = codec.check(value);
  if (pinned !== undefined && (parameters.logN < pinned.logN || parameters.p < pinned.p)) {
    throw new CollectiveError(
      'weak-password-parameters',
      `password parameters: logN ${parameters.logN}, p ${parameters.p} are weaker than logN ${pinned.logN}, p ${pinned.p}`,
    );
  }
  return parameters;
};
