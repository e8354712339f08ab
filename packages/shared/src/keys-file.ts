/**
 * Wrapped secret (docs/formats/keys.md), format 1: `users/<user>/keys.json`. The server keeps it and cannot open it.
 */
import { type Static, Type } from '@collective/schema';
import { documentCodec } from './document.js';
import { base64urlField, nullable, publicKeyField, strictObject } from './schema-fields.js';

/** A secretbox of the person's secret: nonce 24, tag 16, secret 32. */
export const WRAPPED_SECRET_BYTES = 72;
export const KEYS_FILE_BYTES_MAX = 4_096;

export const keysFileSchema = strictObject({
  format: Type.Literal(1),
  identityKey: publicKeyField,
  byPassword: base64urlField(WRAPPED_SECRET_BYTES),
  byRecoveryCode: nullable(base64urlField(WRAPPED_SECRET_BYTES)),
});
export type KeysFile = Static<typeof keysFileSchema>;

const codec = documentCodec(keysFileSchema, { what: 'keys file', bytesMax: KEYS_FILE_BYTES_MAX });

export const encodeKeysFile = (keysFile: KeysFile): Buffer => codec.encode(keysFile);

/** Errors: `malformed`, `unknown-format`, `too-large`. */
export const decodeKeysFile = (bytes: Uint8Array): KeysFile => codec.decode(bytes);
