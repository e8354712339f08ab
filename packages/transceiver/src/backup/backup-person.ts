/**
 * Whose backup it is: what the modules of the backup use of a session. `personOf` makes it of a running one; tests make
 * their own.
 */
import {
  CollectiveError,
  signingKeyFromSeed,
  type Digest,
  type EpochKeys,
  type Profile,
  type SigningKey,
} from '@collective/shared';
import type { Session } from '../agent/session.js';
import type { RepositoryClient } from '../repository/repository-client.js';
import type { PackKeys } from './pack-snapshot.js';

export type BackupClient = Pick<RepositoryClient, 'call' | 'objectRange'>;

export interface BackupPerson {
  readonly client: BackupClient;
  readonly account: string;
  /** The repository's. */
  readonly repository: Digest;
  readonly device: Digest;
  readonly deviceName: string;
  readonly deviceKey: SigningKey;
  /** The present one first, then those of before a reset that was unlocked. */
  readonly identityKeys: readonly string[];
  /** The keys of the newest epoch, and the names that older ones gave. Errors: `not-found`. */
  readonly packKeys: PackKeys;
  /** For reading. Errors: `not-found`. */
  epochKeys(epoch: number): EpochKeys;
  /** Undefined: this home has seen none. */
  readonly profile: Profile | undefined;
  /** As ProfileClient.update. */
  updateProfile(change: (profile: Profile) => Profile, signal?: AbortSignal): Promise<void>;
}

/** The ring may grow meanwhile: everything is looked up when it is used. */
export const personOf = (session: Session): BackupPerson => ({
  client: session.client,
  account: session.keys.account,
  repository: session.device.repository.identity,
  device: session.device.device,
  deviceName: session.device.deviceName,
  deviceKey: signingKeyFromSeed(session.keys.deviceSeed),
  get identityKeys() {
    return [session.person.identity.publicKey, ...(session.profile.profile?.formerIdentities ?? [])];
  },
  get packKeys() {
    const { epoch } = session;
    const older = new Set([1, ...session.keys.ring.map((entry) => entry.epoch)]);
    older.delete(epoch);
    const newest = session.epochKeys(epoch);
    const names: PackKeys['nameKeys'] = [newest.blockNameKey, ...[...older].flatMap((one) => namesOf(session, one))];
    return { epoch, chunkKey: newest.chunkKey, nameKeys: names };
  },
  epochKeys: (epoch) => session.epochKeys(epoch),
  get profile() {
    return session.profile.profile;
  },
  updateProfile: async (change, signal) => {
    await session.profile.update(change, signal === undefined ? {} : { signal });
  },
});

/** After a reset the first epoch of before may still be locked. */
const namesOf = (session: Session, epoch: number): Buffer[] => {
  try {
    const keys: EpochKeys = session.epochKeys(epoch);
    return [keys.blockNameKey];
  } catch (error) {
    if (error instanceof CollectiveError && error.code === 'not-found') return [];
    throw error;
  }
};

export const signalOf = (signal: AbortSignal | undefined): { signal?: AbortSignal } =>
  signal === undefined ? {} : { signal };
