/**
 * Letter, format 1 (docs/formats/trust.md): who gets a candidate. A publishing key that may publish the appliance signs it;
 * `account` null means everybody: that letter is the promotion. A server can keep letters back, and make none.
 */
import { type Static, Type } from '@collective/schema';
import { type Digest } from './brands.js';
import { documentCodec } from './document.js';
import { PAYLOAD_TYPES, openEnvelope, requireSignatures, signEnvelope } from './envelope.js';
import { CollectiveError } from './errors.js';
import { digestField, nameField, nullable, numberField, strictObject } from './schema-fields.js';
import { type SigningKey } from './signing-key.js';

export const LETTER_BYTES_MAX = 4_096;

export const letterSchema = strictObject({
  format: Type.Literal(1),
  appliance: nameField,
  version: numberField,
  /** SHA-256 of the version's manifest file. */
  manifest: digestField,
  /** Whom it is for; null: everybody. */
  account: nullable(nameField),
});
export type Letter = Static<typeof letterSchema>;

const codec = documentCodec(letterSchema, { what: 'letter', bytesMax: LETTER_BYTES_MAX });

/** The payload alone, no signature is checked. Errors: `malformed`, `unknown-format`, `too-large`. */
export const decodeLetter = (payload: Uint8Array): Letter => codec.decode(payload);
/** The payload to sign. Errors: as `decodeLetter`. */
export const encodeLetter = (letter: Letter): Buffer => codec.encode(letter);

/** The envelope file, signed by a publishing key. */
export const signLetter = (letter: Omit<Letter, 'format'>, key: SigningKey): Buffer =>
  signEnvelope({ payloadType: PAYLOAD_TYPES.letter, payload: encodeLetter({ format: 1, ...letter }), signers: [key] });

/**
 * Refuses a file that is not exactly this letter, by one of `keys` (those that may publish the appliance). Errors:
 * `untrusted` (also when it says something else), `bad-signature`, and those of the formats.
 */
export const requireLetter = (
  bytes: Uint8Array,
  keys: readonly string[],
  expected: {
    readonly appliance: string;
    readonly version: number;
    readonly manifest: Digest;
    readonly account: string | null;
  },
): void => {
  const what = `the letter for ${expected.account ?? 'all'} of ${expected.appliance}@${String(expected.version)}`;
  const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.letter });
  requireSignatures(envelope, keys, { threshold: 1, what });
  const letter = decodeLetter(envelope.payload);
  const isSame =
    letter.appliance === expected.appliance &&
    letter.version === expected.version &&
    letter.manifest === expected.manifest &&
    letter.account === expected.account;
  if (!isSame) {
    const says = `${letter.appliance}@${String(letter.version)} for ${letter.account ?? 'all'}`;
    throw new CollectiveError('untrusted', `${what} is another one: it says ${says}`);
  }
};
