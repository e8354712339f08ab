/**
 * Trust files (docs/formats/trust.md): which keys may publish which appliance, and which sign the heads. File n + 1 is
 * signed by the root keys of file n and by its own; a client walks up one by one from the file whose digest came with
 * the join link, and never down.
 */
import { type Static, Type } from '@collective/schema';
import { type Digest } from './brands.js';
import { documentCodec } from './document.js';
import { ENVELOPE_BYTES_MAX, PAYLOAD_TYPES, type Envelope, requireSignatures, openEnvelope } from './envelope.js';
import { sha256 } from './digest.js';
import { CollectiveError } from './errors.js';
import { nameField, numberField, publicKeyField, secondsField, strictObject, textField } from './schema-fields.js';

export const ALL_APPLIANCES = '*';

export const trustFileSchema = strictObject({
  format: Type.Literal(1),
  number: numberField,
  createdAt: secondsField,
  rootKeys: Type.Array(publicKeyField, { minItems: 1, maxItems: 16 }),
  rootThreshold: Type.Integer({ minimum: 1, maximum: 16 }),
  headsKeys: Type.Array(publicKeyField, { minItems: 1, maxItems: 4 }),
  publishers: Type.Array(
    strictObject({
      name: textField({ min: 1, max: 100 }),
      key: publicKeyField,
      appliances: Type.Array(Type.String({ pattern: '^(\\*|[a-z0-9][a-z0-9-]{0,62})$' }), {
        minItems: 1,
        maxItems: 2_000,
      }),
    }),
    { maxItems: 1_000 },
  ),
  recount: Type.Array(strictObject({ appliance: nameField, version: numberField, since: numberField }), {
    maxItems: 1_000,
  }),
});
export type TrustFile = Static<typeof trustFileSchema>;

const codec = documentCodec(trustFileSchema, {
  what: 'trust file',
  bytesMax: ENVELOPE_BYTES_MAX,
  rules: (trust) => {
    if (trust.rootThreshold > trust.rootKeys.length) throw malformed('the threshold is above the number of root keys');
    if (hasRepeats(trust.rootKeys)) throw malformed('a root key is listed twice');
    if (hasRepeats(trust.headsKeys)) throw malformed('a heads key is listed twice');
    if (hasRepeats(trust.publishers.map(({ key }) => key))) throw malformed('a publishing key is listed twice');
    for (const { name, appliances } of trust.publishers) {
      if (hasRepeats(appliances)) throw malformed(`publisher ${name} has an appliance twice`);
      if (appliances.includes(ALL_APPLIANCES) && appliances.length > 1) {
        throw malformed(`publisher ${name} has all appliances and others`);
      }
    }
    if (hasRepeats(trust.recount.map(({ appliance }) => appliance))) throw malformed('an appliance is recounted twice');
    if (trust.recount.some(({ since }) => since > trust.number)) throw malformed('a recount is of a later trust file');
  },
});

/** The payload to sign. Errors: as `decodeTrustFile`. */
export const encodeTrustFile = (trust: TrustFile): Buffer => codec.encode(trust);

/** The payload alone, no signature is checked. Errors: `malformed`, `unknown-format`, `too-large`. */
export const decodeTrustFile = (payload: Uint8Array): TrustFile => codec.decode(payload);

/**
 * The first trust file of a repository, from the bytes of `trust/1`; `identity` is the SHA-256 of these bytes, from the
 * join link, never from the server alone. Errors: `wrong-server` when the digest differs, `untrusted` or
 * `bad-signature` when too few of its own root keys have signed, and those of the formats.
 */
export const openFirstTrust = (bytes: Uint8Array, identity: Digest): TrustFile => {
  const found = sha256(bytes);
  if (found !== identity) {
    throw new CollectiveError(
      'wrong-server',
      `trust file 1 has the digest ${found}, the repository's identity is ${identity}`,
    );
  }
  const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.trust });
  const trust = decodeTrustFile(envelope.payload);
  if (trust.number !== 1) throw malformed(`the first trust file has the number ${trust.number}`);
  checkThreshold(envelope, trust, trust.number);
  return trust;
};

/**
 * The trust file after `held`, from its bytes. Errors: `untrusted` or `bad-signature` when too few root keys of the
 * one held or of its own have signed, `rollback` when it is not the next number, and those of the formats.
 */
export const followTrust = (held: TrustFile, nextBytes: Uint8Array): TrustFile => {
  const envelope = openEnvelope(nextBytes, { payloadType: PAYLOAD_TYPES.trust });
  checkThreshold(envelope, held, held.number + 1);
  const next = decodeTrustFile(envelope.payload);
  if (next.number !== held.number + 1) {
    throw new CollectiveError('rollback', `trust file ${next.number} does not follow trust file ${held.number}`);
  }
  checkThreshold(envelope, next, next.number);
  return next;
};

/** The keys (base64url) that may sign manifests of the appliance. */
export const publisherKeys = (trust: TrustFile, appliance: string): string[] =>
  trust.publishers
    .filter(({ appliances }) => appliances.includes(ALL_APPLIANCES) || appliances.includes(appliance))
    .map(({ key }) => key);

const checkThreshold = (envelope: Envelope, keys: TrustFile, number: number): void => {
  const what = `trust file ${number} by the root keys of file ${keys.number}`;
  requireSignatures(envelope, keys.rootKeys, { threshold: keys.rootThreshold, what });
};

const hasRepeats = (texts: readonly string[]): boolean => new Set(texts).size !== texts.length;

const malformed = (message: string): CollectiveError => new CollectiveError('malformed', `trust file: ${message}`);
