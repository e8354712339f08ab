/**
 * What a reset has locked (docs/formats/keys.md): the keys of before open with the old recovery code, or with the old
 * password on a device that was logged in then. Opened, the old epochs, disk key, subscriptions and identity go into the
 * present profile, so that every device of the person has them.
 */
import {
  CollectiveError,
  currentEpoch,
  derivePersonKeys,
  EPOCHS_PER_RESET,
  hasCode,
  openProfile,
  parseRecoveryCode,
  PROFILE_BYTES_MAX,
  PROFILE_DELETED_MAX,
  PROFILE_DEVICES_MAX,
  recoveryKey,
  unwrap,
  type Digest,
  type PersonKeys,
  type Profile,
} from '@collective/shared';
import { namedSubscriptions } from '../backup/profile-subscriptions.js';
import type { Home } from '../home.js';
import type { UnlockReply, UnlockRequest } from './agent-types.js';
import { lockedDevices, openWithPassword } from './open-device.js';
import type { Session } from './session.js';

/** Errors: `not-found` when nothing is locked; `wrong-password` when this opens none of it; `malformed` (a typing error). */
export async function unlock(session: Session, request: UnlockRequest): Promise<UnlockReply> {
  const locked = await session.client.call('lockedKeys', {});
  const open = new Set(session.profile.profile?.formerIdentities ?? []);
  const wanted = locked.filter(({ identityKey }) => !open.has(identityKey));
  if (wanted.length === 0) throw new CollectiveError('not-found', 'Nothing of yours is locked.');
  const secrets =
    request.recoveryCode !== undefined
      ? secretsOfCode(
          request.recoveryCode,
          wanted.flatMap(({ byRecoveryCode }) => byRecoveryCode ?? []),
        )
      : await secretsOfPassword(session.home, request.oldPassword ?? '');
  const now = Math.floor(Date.now() / 1000);
  let unlocked = 0;
  for (const secret of secrets) {
    const old = derivePersonKeys(secret);
    secret.fill(0);
    const found = wanted.find(({ identityKey }) => identityKey === old.identity.publicKey);
    if (found === undefined) continue;
    const oldProfile = found.hasProfile ? await lockedProfile(session, found.id, old) : undefined;
    await session.profile.update((profile) => withUnlocked(profile, { old, oldProfile, now }));
    unlocked += 1;
  }
  if (unlocked === 0) {
    throw new CollectiveError('wrong-password', 'This opens none of what is locked.');
  }
  return { unlocked, locked: wanted.length - unlocked };
}

/** How much of the person is still locked; for a note. */
export async function countLocked(session: Session): Promise<number> {
  const open = new Set(session.profile.profile?.formerIdentities ?? []);
  return (await session.client.call('lockedKeys', {})).filter(({ identityKey }) => !open.has(identityKey)).length;
}

/** The profile with what the old identity had. The same profile when it has that already. Pure. */
export const withUnlocked = (
  profile: Profile,
  {
    old,
    oldProfile,
    now,
  }: { readonly old: PersonKeys; readonly oldProfile: Profile | undefined; readonly now: number },
): Profile => {
  const identity = old.identity.publicKey;
  if (profile.formerIdentities.includes(identity)) return profile;
  const oldEpochs = oldProfile?.epochs ?? [];
  // Only the first secret of an account ever used the epoch that is derived; see EPOCHS_PER_RESET.
  const isFirst = currentEpoch(oldEpochs) <= EPOCHS_PER_RESET && oldEpochs.every(({ epoch }) => epoch !== 1);
  const derived = { epoch: 1, secret: old.firstEpochSecret.toString('base64url'), createdAt: now };
  const added = [...(isFirst ? [derived] : []), ...oldEpochs];
  return {
    ...profile,
    devices: union(profile.devices, oldProfile?.devices ?? [], ({ device }) => device).slice(0, PROFILE_DEVICES_MAX),
    epochs: union(profile.epochs, added, ({ epoch }) => epoch).sort((a, b) => a.epoch - b.epoch),
    formerIdentities: union(
      [...profile.formerIdentities, identity],
      oldProfile?.formerIdentities ?? [],
      (publicKey) => publicKey,
    ),
    formerDiskKeys: union(
      [...(profile.formerDiskKeys ?? []), old.diskKey.toString('base64url')],
      oldProfile?.formerDiskKeys ?? [],
      (diskKey) => diskKey,
    ),
    ...subscriptionsOf(profile, oldProfile),
  };
};

/** What was deleted before the reset, or since, stays so; two of one name have names of their own. */
const subscriptionsOf = (
  profile: Profile,
  old: Profile | undefined,
): Pick<Profile, 'subscriptions' | 'deletedSubscriptions'> => {
  const deleted = union(old?.deletedSubscriptions ?? [], profile.deletedSubscriptions ?? [], ({ id }) => id);
  const all = union(profile.subscriptions, old?.subscriptions ?? [], ({ id }) => id);
  return {
    subscriptions: namedSubscriptions({
      subscriptions: all.filter(({ id }) => !deleted.some((one) => one.id === id)),
    }),
    ...(deleted.length === 0 ? {} : { deletedSubscriptions: deleted.slice(-PROFILE_DELETED_MAX) }),
  };
};

const union = <T>(now: readonly T[], old: readonly T[], keyOf: (value: T) => unknown): T[] => {
  const there = new Set(now.map(keyOf));
  return [...now, ...old.filter((value) => !there.has(keyOf(value)))];
};

async function lockedProfile(session: Session, id: Digest, old: PersonKeys): Promise<Profile> {
  const bytes = await session.client.call('lockedProfile', {
    params: { id },
    responseBytesMax: PROFILE_BYTES_MAX,
  });
  return openProfile(bytes, old);
}

const secretsOfCode = (text: string, boxes: readonly string[]): Buffer[] => {
  const key = recoveryKey(parseRecoveryCode(text));
  return boxes.flatMap((box) => {
    try {
      return [unwrap(key, Buffer.from(box, 'base64url'))];
    } catch (error) {
      if (hasCode(error, 'wrong-password')) return [];
      throw error;
    }
  });
};

const secretsOfPassword = async (home: Home, password: string): Promise<Buffer[]> => {
  const secrets: Buffer[] = [];
  for (const device of await lockedDevices(home)) {
    try {
      const { deviceSeed, personSecret } = await openWithPassword(device, password);
      deviceSeed.fill(0);
      secrets.push(personSecret);
    } catch (error) {
      if (!hasCode(error, 'wrong-password')) throw error;
    }
  }
  return secrets;
};
