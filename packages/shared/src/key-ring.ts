/**
 * The ring of key epochs (docs/formats/keys.md): which secret names and encrypts private blocks of which epoch. New
 * blocks use the highest epoch; old ones stay readable through their own.
 */
import { randomBytes } from 'node:crypto';
import { CollectiveError } from './errors.js';
import { type EpochKeys, type PersonKeys, deriveEpochKeys } from './person-keys.js';
import { PROFILE_EPOCHS_MAX, type Profile } from './profile.js';

export const EPOCH_SECRET_BYTES = 32;
/**
 * Epochs after the n-th reset begin at `n × 1,000 + 1`, so that they never have the number of one that is locked: when
 * that is unlocked, both are in one ring.
 */
export const EPOCHS_PER_RESET = 1_000;

export type EpochSecret = { readonly epoch: number; readonly secret: Buffer };

/** The epoch that new blocks use. */
export const currentEpoch = (ring: readonly { readonly epoch: number }[]): number =>
  Math.max(1, ...ring.map(({ epoch }) => epoch));

/** The keys of an epoch. Errors: `not-found` for one that the ring does not have. */
export const keysOfEpoch = (epoch: number, ring: readonly EpochSecret[], person: PersonKeys): EpochKeys => {
  const listed = ring.find((entry) => entry.epoch === epoch)?.secret;
  if (listed !== undefined) return deriveEpochKeys(listed);
  if (epoch === 1) return deriveEpochKeys(person.firstEpochSecret);
  throw new CollectiveError('not-found', `Key epoch ${epoch} is not in the ring of this device`, { data: { epoch } });
};

export const ringOf = ({ epochs }: Pick<Profile, 'epochs'>): EpochSecret[] =>
  epochs.map(({ epoch, secret }) => ({ epoch, secret: Buffer.from(secret, 'base64url') }));

/** 32 random bytes as they stand in a profile: a new epoch must not follow from what a thief already has. */
export const newEpochSecret = (): string => randomBytes(EPOCH_SECRET_BYTES).toString('base64url');

/**
 * The profile with one epoch more. The same profile when it has this secret already, so that a change can be tried
 * again. Errors: `too-large` when the ring is full.
 */
export const withNewEpoch = (profile: Profile, secret: string, createdAt: number): Profile => {
  if (profile.epochs.some((entry) => entry.secret === secret)) return profile;
  if (profile.epochs.length >= PROFILE_EPOCHS_MAX) {
    throw new CollectiveError('too-large', `profile: the ring has ${profile.epochs.length} epochs, no more fit`);
  }
  const epoch = currentEpoch(profile.epochs) + 1;
  return { ...profile, epochs: [...profile.epochs, { epoch, secret, createdAt }] };
};
