/** From a login that was asked for to the session that runs: the person in, the repository's news taken, the session file written. */
import { hostname } from 'node:os';
import { registerPublishingKey } from '../publish/publishing-key.js';
import type { Home } from '../home.js';
import type { LoginReply, LoginRequest, Stay } from './agent-types.js';
import type { DeviceFile } from './device-file.js';
import { logIn } from './login.js';
import { revokeThisDevice } from './logout.js';
import type { ObjectCache } from './object-cache.js';
import type { OfferedCodes } from './offered-code.js';
import { Session } from './session.js';
import { settleSession } from './settle-session.js';

const LOCKED =
  'After a reset some of your disks are locked. Open them with your old recovery code, or on a device where you were logged in before: collective unlock';
const ONLY_FOR_NOW = 'You are on this machine only for now: collective logout removes everything of yours.';

export type SessionPlace = {
  /** Where the person's files lie. */
  readonly home: Home;
  readonly stay: Stay;
  /** That the home holds. */
  readonly device: DeviceFile | undefined;
  readonly offers: OfferedCodes;
  readonly objects: ObjectCache;
  /** That this one takes the place of. */
  readonly before: Session | undefined;
};

/**
 * Errors: those of logIn, Session.open, refresh and settleSession. Then the session of before still counts, and a device that was made is in
 * the home; one that was to be here only for now is revoked again.
 */
export async function openSession(
  request: LoginRequest,
  { home, stay, device: held, offers, objects, before }: SessionPlace,
): Promise<{ readonly session: Session; readonly reply: LoginReply }> {
  const isNow = stay === 'now';
  const named = isNow && request.deviceName === undefined ? { deviceName: `${hostname()} (only for now)` } : {};
  const opened = await logIn({ ...request, ...named }, held, { home, offers });
  const { device, isNewDevice } = opened;
  const keys = { ...opened.keys, ...(isNow ? { stay: 'now' as const } : {}) };
  const session = await Session.open({ device, keys, home, objects });
  try {
    const { note } = await session.refresh();
    const locked = note === undefined ? await settleSession(session) : 0;
    if (note === undefined && session.tokens.role !== 'user') await registerPublishingKey(session);
    await before?.release();
    await session.keep();
    await before?.close();
    const notes = [
      note,
      note === undefined && isNewDevice ? `This device is now "${device.deviceName}".` : undefined,
      isNow ? ONLY_FOR_NOW : undefined,
      locked === 0 ? undefined : LOCKED,
    ].filter((text) => text !== undefined);
    const reply = {
      account: device.account,
      origin: device.repository.origin,
      connected: note === undefined,
      stay,
      ...(session.tokens.role === undefined ? {} : { role: session.tokens.role }),
      ...(notes.length === 0 ? {} : { note: notes.join('\n') }),
    };
    return { session, reply };
  } catch (error) {
    if (isNow && held === undefined) await revokeThisDevice(session).catch(() => undefined);
    await session.close();
    throw error;
  }
}
