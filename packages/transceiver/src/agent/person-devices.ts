/**
 * The person's devices. Revoking one begins a new key epoch: its token is dead first, so that it never gets the ring with
 * the new secret; then the profile forgets it. When that is broken off in the middle, revoking it again does the rest.
 */
import { CollectiveError, newEpochSecret, withNewEpoch, type Profile } from '@collective/shared';
import type { DeviceRow, DevicesReply, RevokeReply } from './agent-types.js';
import { isAway } from './repository-access.js';
import type { Session } from './session.js';

/** Ids are shown and taken by their first digits. */
const ID_DIGITS_MIN = 8;

/** Without the repository: those of the profile, of which it is not known when they were last seen. */
export async function listDevices(session: Session): Promise<DevicesReply> {
  const here = session.device.device;
  try {
    const rows = await session.client.call('myDevices', {});
    return { devices: rows.map((row) => ({ ...row, isThis: row.device === here })), connected: true };
  } catch (error) {
    if (!isAway(error)) throw error;
    const devices = (session.profile.profile?.devices ?? []).map(({ device, name, createdAt }) => ({
      ...{ device, name, createdAt, lastSeenAt: null, revoked: false },
      isThis: device === here,
    }));
    return { devices, connected: false };
  }
}

/** `wanted`: a name, or the first 8 or more digits of an id. Errors: `not-found`, `usage` (several, or this device), those of the network. */
export async function revokeDevice(session: Session, wanted: string): Promise<RevokeReply> {
  const rows = await session.client.call('myDevices', {});
  const row = chooseDevice(rows, wanted);
  const id = row.device;
  if (id === session.device.device)
    throw new CollectiveError('usage', 'This is the device that you are working on: revoke it from another one.');
  if (!row.revoked) await session.client.call('revokeDevice', { params: { device: id } });
  const secret = newEpochSecret();
  const now = Math.floor(Date.now() / 1000);
  const isFinished = (profile: Profile): boolean => row.revoked && profile.devices.every(({ device }) => device !== id);
  await session.profile.update((profile) =>
    isFinished(profile)
      ? profile
      : withNewEpoch({ ...profile, devices: profile.devices.filter(({ device }) => device !== id) }, secret, now),
  );
  return { device: id, name: row.name, epoch: session.epoch };
}

/** Of several with one name those that are revoked already do not count. */
function chooseDevice<R extends Pick<DeviceRow, 'device' | 'name' | 'revoked'>>(rows: readonly R[], wanted: string): R {
  const isId = wanted.length >= ID_DIGITS_MIN && /^[0-9a-f]+$/.test(wanted);
  const fitting = rows.filter(({ device, name }) => name === wanted || (isId && device.startsWith(wanted)));
  const live = fitting.filter(({ revoked }) => !revoked);
  const [chosen, ...more] = live.length > 0 ? live : fitting;
  if (chosen === undefined) throw new CollectiveError('not-found', `You have no device ${wanted}.`);
  if (more.length === 0) return chosen;
  const ids = [chosen, ...more].map(({ device }) => device.slice(0, 2 * ID_DIGITS_MIN)).join(', ');
  throw new CollectiveError('usage', `Several devices are called ${wanted}: say which by its id (${ids}).`);
}
