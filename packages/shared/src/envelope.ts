/**
 * Signed envelope (docs/formats/envelope.md), DSSE v1: one line of JSON with the payload type as context. A reader
 * opens it (length, strict parse, expected type), asks which of the keys that it trusts have signed, and only then
 * parses the payload. Nothing is ever re-serialised. The name of an envelope is the SHA-256 of the file's bytes.
 */
import { Type } from '@collective/schema';
import { type Digest } from './brands.js';
import { documentCodec } from './document.js';
import { sha256 } from './digest.js';
import { CollectiveError } from './errors.js';
import { digestField, strictObject } from './schema-fields.js';
import { SIGNATURE_BYTES, type SigningKey, keyId, verifySignature } from './signing-key.js';

export const PAYLOAD_TYPES = {
  version: 'application/vnd.collective.version.v1+json',
  snapshot: 'application/vnd.collective.snapshot.v1+json',
  trust: 'application/vnd.collective.trust.v1+json',
  heads: 'application/vnd.collective.heads.v1+json',
  letter: 'application/vnd.collective.letter.v1+json',
  deviceCertificate: 'application/vnd.collective.device-certificate.v1+json',
  profile: 'application/vnd.collective.profile.v1',
} as const;
export type PayloadType = (typeof PAYLOAD_TYPES)[keyof typeof PAYLOAD_TYPES];

export const ENVELOPE_BYTES_MAX = 262_144;
export const ENVELOPE_SIGNATURES_MAX = 16;

export type EnvelopeSignature = { readonly keyid: Digest; readonly signature: Buffer };

export type Envelope = {
  readonly payloadType: PayloadType;
  /** What was signed; not to be parsed before the signatures have been counted. */
  readonly payload: Buffer;
  readonly signatures: readonly EnvelopeSignature[];
  /** SHA-256 of the file: its name. */
  readonly digest: Digest;
};

const codec = documentCodec(
  strictObject({
    payloadType: Type.String({ pattern: '^[\\u0020-\\u007e]{1,200}$' }),
    payload: Type.String(),
    signatures: Type.Array(strictObject({ keyid: digestField, sig: Type.String() }), {
      minItems: 1,
      maxItems: ENVELOPE_SIGNATURES_MAX,
    }),
  }),
  { what: 'envelope', bytesMax: ENVELOPE_BYTES_MAX },
);

/** DSSE's pre-authentication encoding: the bytes that are signed. */
export const preAuthenticationEncoding = (payloadType: string, payload: Uint8Array): Buffer =>
  Buffer.concat([
    Buffer.from(`DSSEv1 ${Buffer.byteLength(payloadType)} ${payloadType} ${payload.length} `, 'utf8'),
    payload,
  ]);

/** The envelope file, one signature per signer. Errors: `too-large` above 262,144 bytes. */
export const signEnvelope = (options: {
  readonly payloadType: PayloadType;
  readonly payload: Uint8Array;
  readonly signers: readonly SigningKey[];
}): Buffer => {
  const signed = preAuthenticationEncoding(options.payloadType, options.payload);
  return codec.encode({
    payloadType: options.payloadType,
    payload: Buffer.from(options.payload).toString('base64'),
    signatures: options.signers.map((signer) => ({
      keyid: keyId(signer.publicKey),
      sig: signer.sign(signed).toString('base64'),
    })),
  });
};

/**
 * Takes the envelope apart; no signature is checked yet. Errors: `too-large`, `malformed` (also for a known payload
 * type that is not the expected one), `unknown-format` for a payload type that this program does not know.
 */
export const openEnvelope = (bytes: Uint8Array, { payloadType }: { readonly payloadType: PayloadType }): Envelope => {
  const file = codec.decode(bytes);
  if (file.payloadType !== payloadType) {
    const isKnown = Object.values<string>(PAYLOAD_TYPES).includes(file.payloadType);
    throw new CollectiveError(
      isKnown ? 'malformed' : 'unknown-format',
      `envelope: holds ${file.payloadType}, expected ${payloadType}`,
    );
  }
  const signatures = file.signatures.map(({ keyid, sig }) => ({ keyid, signature: fromBase64(sig) }));
  if (signatures.some(({ signature }) => signature.length !== SIGNATURE_BYTES)) {
    throw new CollectiveError('malformed', 'envelope: a signature does not have 64 bytes');
  }
  if (new Set(signatures.map(({ keyid }) => keyid)).size !== signatures.length) {
    throw new CollectiveError('malformed', 'envelope: a key has signed twice');
  }
  return { payloadType, payload: fromBase64(file.payload), signatures, digest: sha256(bytes) };
};

/**
 * Which of these keys (base64url) have signed, each once. The keyid only selects among the keys that the reader
 * trusts; a signature by another key is as good as none, and so is a wrong one.
 */
export const countValidSignatures = (envelope: Envelope, publicKeys: readonly string[]): string[] => {
  const signed = preAuthenticationEncoding(envelope.payloadType, envelope.payload);
  const signatures = new Map(envelope.signatures.map(({ keyid, signature }) => [keyid, signature]));
  return [...new Set(publicKeys)].filter((publicKey) => {
    const signature = signatures.get(keyId(publicKey));
    return signature !== undefined && verifySignature(publicKey, signed, signature);
  });
};

/**
 * At least `threshold` of these keys have signed; gives them. Errors: `bad-signature` when one of the keys is named but
 * its signature is wrong, `untrusted` when too few are named at all. `what` names the document in messages.
 */
export const requireSignatures = (
  envelope: Envelope,
  publicKeys: readonly string[],
  options: { readonly threshold: number; readonly what: string },
): string[] => {
  const valid = countValidSignatures(envelope, publicKeys);
  if (valid.length >= options.threshold) return valid;
  const keyids = new Set(envelope.signatures.map(({ keyid }) => keyid));
  const wrong = publicKeys.find((publicKey) => keyids.has(keyId(publicKey)) && !valid.includes(publicKey));
  if (wrong !== undefined) {
    throw new CollectiveError('bad-signature', `${options.what}: the signature of key ${keyId(wrong)} does not match`);
  }
  throw new CollectiveError(
    'untrusted',
    `${options.what}: ${valid.length} of the keys that may sign it have signed, ${options.threshold} must`,
  );
};

/** Standard base64 with padding, one text for one value. Errors: `malformed`. */
const fromBase64 = (text: string): Buffer => {
  const bytes = Buffer.from(text, 'base64');
  if (bytes.toString('base64') !== text) throw new CollectiveError('malformed', 'envelope: not standard base64');
  return bytes;
};
