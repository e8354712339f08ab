/**
 * The person's secret and what it derives (docs/formats/keys.md): identity, publishing keys, the profile's key, and the
 * keys of an epoch that name and encrypt private blocks.
 */
import { randomBytes } from 'node:crypto';
import { hkdf, hkdf32 } from './hkdf.js';
import { type SigningKey, signingKeyFromSeed } from './signing-key.js';

export const PERSON_SECRET_BYTES = 32;
export const DISK_KEY_BYTES = 64;

export type PersonKeys = {
  /** Signs device certificates. */
  readonly identity: SigningKey;
  /** `index` from 0; a publisher whose key was revoked takes the next. */
  readonly publishing: (index: number) => SigningKey;
  /** Seals the profile (secretbox). */
  readonly profileKey: Buffer;
  /** Encrypts what lies of the person on a transceiver's local disk: layers and memory images. 64 bytes. */
  readonly diskKey: Buffer;
  /** Secret of epoch 1; later ones are random and lie in the sealed profile. */
  readonly firstEpochSecret: Buffer;
};

/** Keys of one epoch, 32 bytes each. */
export type EpochKeys = {
  /** HMAC key of private digests. */
  readonly blockNameKey: Buffer;
  /** AES-256-GCM key of private chunks. */
  readonly chunkKey: Buffer;
};

/** 32 random bytes. */
export const newPersonSecret = (): Buffer => randomBytes(PERSON_SECRET_BYTES);

/** Keeps its own copy of the secret; the caller may erase it afterwards. */
export const derivePersonKeys = (secret: Uint8Array): PersonKeys => {
  if (secret.length !== PERSON_SECRET_BYTES)
    throw new RangeError(`a person's secret has 32 bytes, not ${secret.length}`);
  const kept = Buffer.from(secret);
  return {
    identity: deriveSigningKey(kept, 'collective identity key v1'),
    publishing: (index) => {
      if (!Number.isSafeInteger(index) || index < 0) throw new RangeError(`publishing key ${index} cannot be`);
      return deriveSigningKey(kept, `collective publishing key v1 ${index}`);
    },
    profileKey: hkdf32(kept, 'collective profile key v1'),
    diskKey: hkdf(kept, 'collective disk key v1', DISK_KEY_BYTES),
    firstEpochSecret: hkdf32(kept, 'collective epoch 1 v1'),
  };
};

export const deriveEpochKeys = (epochSecret: Uint8Array): EpochKeys => ({
  blockNameKey: hkdf32(epochSecret, 'collective block name v1'),
  chunkKey: hkdf32(epochSecret, 'collective chunk v1'),
});

const deriveSigningKey = (secret: Uint8Array, info: string): SigningKey => {
  const seed = hkdf32(secret, info);
  const key = signingKeyFromSeed(seed);
  seed.fill(0);
  return key;
};
