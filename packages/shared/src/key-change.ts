/**
 * A change of what opens the person's secret (docs/formats/keys.md): a new password, a new recovery code, or both. The
 * identity key signs it over a nonce of the server, so that a stolen bearer token alone cannot lock the person out, and
 * nobody on the way can put other boxes in its place.
 */
import { type Static, Type } from '@collective/schema';
import { type Digest } from './brands.js';
import { LOGIN_NONCE_BYTES } from './device-certificate.js';
import { digestBytes, sha256Bytes } from './digest.js';
import { documentCodec } from './document.js';
import { CollectiveError } from './errors.js';
import { WRAPPED_SECRET_BYTES } from './keys-file.js';
import { passwordParametersSchema } from './password-parameters.js';
import { base64urlField, nameField, nullable, secretField, strictObject } from './schema-fields.js';

const KEY_CHANGE_BYTES_MAX = 4_096;

export const keyChangeSchema = strictObject({
  format: Type.Literal(1),
  account: nameField,
  /** Null: the recovery code stays. */
  recovery: nullable(
    strictObject({ recoverySecret: secretField, byRecoveryCode: base64urlField(WRAPPED_SECRET_BYTES) }),
  ),
  /** Null: the password stays. */
  password: nullable(
    strictObject({
      parameters: passwordParametersSchema,
      loginSecret: secretField,
      byPassword: base64urlField(WRAPPED_SECRET_BYTES),
    }),
  ),
});
export type KeyChange = Static<typeof keyChangeSchema>;

const codec = documentCodec(keyChangeSchema, {
  what: 'key change',
  bytesMax: KEY_CHANGE_BYTES_MAX,
  rules: ({ recovery, password }) => {
    if (recovery === null && password === null)
      throw new CollectiveError('malformed', 'key change: it changes nothing');
  },
});

/**
 * What the identity key signs: `"collective key change v1" 00 | repository identity 32 | nonce 32 | SHA-256 32` of the
 * change as JSON, fields in the order of the schema. Errors: `malformed` for a change that changes nothing.
 */
export const keyChangeMessage = (options: {
  readonly identity: Digest;
  readonly nonce: Uint8Array;
  readonly change: KeyChange;
}): Buffer => {
  if (options.nonce.length !== LOGIN_NONCE_BYTES)
    throw new RangeError(`a nonce has 32 bytes, not ${options.nonce.length}`);
  return Buffer.concat([
    Buffer.from('collective key change v1\0', 'ascii'),
    digestBytes(options.identity),
    options.nonce,
    sha256Bytes(codec.encode(options.change)),
  ]);
};
