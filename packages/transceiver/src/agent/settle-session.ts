/**
 * What a login settles with the repository once it is connected: the password is still the one that the account has, and
 * the profile knows this device and where the server is.
 */
import { EPOCHS_PER_RESET, newEpochSecret, PROFILE_DEVICES_MAX, type Profile } from '@collective/shared';
import { passwordChanged } from './open-device.js';
import type { Session } from './session.js';
import { countLocked } from './unlock.js';

/** Says how much of the person is locked. Errors: `wrong-password` when the password was changed elsewhere (data.changedAt); those of the profile. */
export async function settleSession(session: Session): Promise<number> {
  const { device, client } = session;
  const me = await client.call('me', {});
  if (me.passwordParameters.salt !== device.passwordParameters.salt)
    throw passwordChanged(device.account, me.passwordChangedAt);
  const now = Math.floor(Date.now() / 1000);
  await session.profile.update((profile) => withDevice(profile, session, now), {
    first: async () => firstProfile(session, now),
  });
  return countLocked(session);
}

/**
 * The profile with this device, and the server where it now is; the same one when it has both. A device that is here only for now is not
 * listed: it is revoked at its logout, and the server has its certificate.
 */
const withDevice = (profile: Profile, { device, keys }: Session, now: number): Profile => {
  const { repository } = device;
  const isKnown = keys.stay === 'now' || profile.devices.some((entry) => entry.device === device.device);
  const hasMoved = profile.repository.origin !== repository.origin || profile.repository.pin !== repository.pin;
  if (isKnown && !hasMoved) return profile;
  const added = isKnown ? [] : [{ device: device.device, name: device.deviceName, createdAt: now }];
  return { ...profile, repository, devices: [...profile.devices, ...added].slice(-PROFILE_DEVICES_MAX) };
};

/** After a reset the first epoch has a number that none before can have had; see EPOCHS_PER_RESET. */
const firstProfile = async ({ client, device }: Session, now: number): Promise<Profile> => {
  const resets = (await client.call('lockedKeys', {})).length;
  const epochs =
    resets === 0 ? [] : [{ epoch: resets * EPOCHS_PER_RESET + 1, secret: newEpochSecret(), createdAt: now }];
  return {
    format: 1,
    number: 1,
    account: device.account,
    repository: device.repository,
    devices: [],
    epochs,
    formerIdentities: [],
    subscriptions: [],
  };
};
