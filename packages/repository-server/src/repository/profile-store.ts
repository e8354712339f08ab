/**
 * Sealed profiles (docs/formats/profile.md), one a person: read by the person's devices, replaced only by the next number
 * that the identity key has signed. A profile of before a reset is signed by another key and counts as none.
 */
import { CollectiveError, hasCode, readSealedProfile } from '@collective/shared';
import { type Account } from '../catalogue/catalogue.js';
import { profileName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { readKeys } from './keys-record.js';
import { type Repository } from './repository.js';

export type StoredProfile = { readonly bytes: Buffer; readonly number: number };

/** Errors: those of the formats when it is damaged. */
export const readProfile = async (blobStore: BlobStore, account: Account): Promise<StoredProfile | undefined> => {
  const bytes = await blobStore.read(profileName(account.name));
  if (bytes === undefined) return undefined;
  const { keys } = await readKeys(blobStore, account);
  try {
    return { bytes, number: readSealedProfile(bytes, keys.identityKey).number };
  } catch (error) {
    if (hasCode(error, 'untrusted')) return undefined;
    throw error;
  }
};

/**
 * Puts the profile in the place of number `after` (0: there is none); durable when it resolves. Errors: `conflict`
 * (data.number: the one that is there), `untrusted`, `bad-signature`, `malformed` for another number than the next.
 */
export const storeProfile = async (
  { blobStore, catalogue }: Repository,
  name: string,
  { after, bytes }: { readonly after: number; readonly bytes: Uint8Array },
): Promise<number> =>
  catalogue.exclusively(async () => {
    const account = await catalogue.people.account(name);
    if (account === undefined) throw new CollectiveError('not-logged-in');
    const { keys } = await readKeys(blobStore, account);
    const { number } = readSealedProfile(bytes, keys.identityKey);
    if (number !== after + 1) {
      throw new CollectiveError('malformed', `profile: number ${number} does not follow ${after}`);
    }
    const there = (await readProfile(blobStore, account))?.number ?? 0;
    if (there !== after) {
      throw new CollectiveError('conflict', `The profile has number ${there}, not ${after}`, {
        data: { number: there },
      });
    }
    await blobStore.replace(profileName(name), bytes);
    return number;
  });
