/**
 * Sealing under a 32-byte key with NaCl's secretbox (XSalsa20-Poly1305), random nonce: `nonce 24 | tag 16 | plain`.
 */
import { randomBytes } from 'node:crypto';
import nacl from 'tweetnacl';
import { CollectiveError } from './errors.js';

export const BOX_OVERHEAD_BYTES = nacl.secretbox.nonceLength + nacl.secretbox.overheadLength;

export const wrap = (key: Uint8Array, plain: Uint8Array): Buffer => {
  const nonce = randomBytes(nacl.secretbox.nonceLength);
  return Buffer.concat([nonce, nacl.secretbox(plain, nonce, key)]);
};

/** Errors: `wrong-password` when the key is not the one or the box was changed. */
export const unwrap = (key: Uint8Array, box: Uint8Array): Buffer => {
  const nonceBytes = nacl.secretbox.nonceLength;
  const plain =
    box.length < BOX_OVERHEAD_BYTES
      ? null
      : nacl.secretbox.open(box.subarray(nonceBytes), box.subarray(0, nonceBytes), key);
  if (plain === null) throw new CollectiveError('wrong-password', 'The password does not open this.');
  return Buffer.from(plain.buffer, plain.byteOffset, plain.length);
};
