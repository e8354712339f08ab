/**
 * Ed25519 keys. tweetnacl signs (it needs only the seed), node:crypto verifies (it is fast). A public key as text is
 * base64url without padding, 43 characters; its keyid is the SHA-256 of its 32 bytes.
 */
import { createPublicKey, randomBytes, verify } from 'node:crypto';
import nacl from 'tweetnacl';
import { type Digest } from './brands.js';
import { sha256 } from './digest.js';
import { CollectiveError } from './errors.js';

export const SEED_BYTES = 32;
export const SIGNATURE_BYTES = 64;

// The last of 43 characters carries two bits too many; they must be zero, so that a key has one text.
const PUBLIC_KEY = /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/;

export interface SigningKey {
  /** Base64url, 43 characters. */
  readonly publicKey: string;
  /** 64 bytes. */
  sign(bytes: Uint8Array): Buffer;
}

export const isPublicKey = (text: string): boolean => PUBLIC_KEY.test(text);

/** 32 random bytes. */
export const newSigningKeySeed = (): Buffer => randomBytes(SEED_BYTES);

/** Keeps its own copy of what it needs of the seed; the caller may erase the seed afterwards. */
export const signingKeyFromSeed = (seed: Uint8Array): SigningKey => {
  const pair = nacl.sign.keyPair.fromSeed(Uint8Array.from(seed));
  return {
    publicKey: Buffer.from(pair.publicKey).toString('base64url'),
    sign: (bytes) => Buffer.from(nacl.sign.detached(Uint8Array.from(bytes), pair.secretKey)),
  };
};

/** The 32 bytes. Errors: `malformed`. */
export const publicKeyBytes = (publicKey: string): Buffer => {
  if (!isPublicKey(publicKey)) throw new CollectiveError('malformed', 'public key: not 43 characters of base64url');
  return Buffer.from(publicKey, 'base64url');
};

/** SHA-256 of the 32 bytes. Errors: `malformed`. */
export const keyId = (publicKey: string): Digest => sha256(publicKeyBytes(publicKey));

/** False also for a key or signature that is none; throws nothing. */
export const verifySignature = (publicKey: string, bytes: Uint8Array, signature: Uint8Array): boolean => {
  if (!isPublicKey(publicKey) || signature.length !== SIGNATURE_BYTES) return false;
  try {
    const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: publicKey }, format: 'jwk' });
    return verify(null, bytes, key, signature);
  } catch {
    // 32 bytes that are no point of the curve.
    return false;
  }
};
