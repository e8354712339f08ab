/**
 * Recovery code (docs/formats/keys.md): 128 random bits on paper, as 7 groups of 4 characters of Crockford's base32:
 * 26 characters (the last two bits are zero) and 2 check characters, the first 10 bits of SHA-256 of the 16 bytes.
 */
import { randomBytes } from 'node:crypto';
import { sha256Bytes } from './digest.js';
import { CollectiveError } from './errors.js';
import { hkdf32 } from './hkdf.js';

export const RECOVERY_CODE_BYTES = 16;

const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
const CODE_CHARACTERS = 26;
const CHECK_CHARACTERS = 2;

export const newRecoveryCode = (): Buffer => randomBytes(RECOVERY_CODE_BYTES);

/** E.g. `ABCD-EFGH-…`, 34 characters. The person types the last group back. */
export const formatRecoveryCode = (code: Uint8Array): string => {
  if (code.length !== RECOVERY_CODE_BYTES) throw new RangeError(`a recovery code has 16 bytes, not ${code.length}`);
  const text = toBase32(code, CODE_CHARACTERS) + toBase32(sha256Bytes(code), CHECK_CHARACTERS);
  return (text.match(/.{4}/g) ?? []).join('-');
};

/** The 16 bytes; case, blanks and hyphens do not matter, O is 0, I and L are 1. Errors: `malformed` (a typing error). */
export const parseRecoveryCode = (text: string): Buffer => {
  const characters = text.slice(0, 200).toUpperCase().replace(/[\s-]/g, '').replace(/O/g, '0').replace(/[IL]/g, '1');
  if (characters.length !== CODE_CHARACTERS + CHECK_CHARACTERS || [...characters].some((c) => !ALPHABET.includes(c))) {
    throw new CollectiveError('malformed', 'A recovery code has 7 groups of 4 letters and digits.');
  }
  const code = fromBase32(characters.slice(0, CODE_CHARACTERS));
  if (formatRecoveryCode(code).replace(/-/g, '') !== characters) {
    throw new CollectiveError('malformed', 'There is a typing error in the recovery code.');
  }
  return code;
};

/** The key under which the person's secret is wrapped a second time. */
export const recoveryKey = (code: Uint8Array): Buffer => hkdf32(code, 'collective recovery v1');

/**
 * Sent to recover an account; the server keeps its SHA-256. It shows that the code is at hand: the identity key would not
 * do, because a device that was revoked still has that.
 */
export const recoverySecret = (code: Uint8Array): Buffer => hkdf32(code, 'collective recovery login v1');

/** The first `5 × count` bits, the highest first; zero bits follow the end. */
const toBase32 = (bytes: Uint8Array, count: number): string => {
  let text = '';
  for (let character = 0; character < count; character += 1) {
    const bit = character * 5;
    const pair = ((bytes[bit >> 3] ?? 0) << 8) | (bytes[(bit >> 3) + 1] ?? 0);
    text += ALPHABET[(pair >> (11 - (bit & 7))) & 31] ?? '';
  }
  return text;
};

const fromBase32 = (text: string): Buffer => {
  const bytes = Buffer.alloc(RECOVERY_CODE_BYTES);
  [...text].forEach((character, at) => {
    const value = ALPHABET.indexOf(character);
    const bit = at * 5;
    const shifted = value << (11 - (bit & 7));
    const first = bit >> 3;
    if (first < bytes.length) bytes[first] = (bytes[first] ?? 0) | (shifted >> 8);
    if (first + 1 < bytes.length) bytes[first + 1] = (bytes[first + 1] ?? 0) | (shifted & 255);
  });
  return bytes;
};
