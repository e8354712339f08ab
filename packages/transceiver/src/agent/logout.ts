/**
 * The end of a session. On a machine that is the person's everything stays, encrypted. On one where they are only for now, and with
 * `remove` on any, nothing stays: machines must be at rest, what is not saved yet is waited for and then named, and only with `discard` is
 * anything lost.
 *
 * The order: machines stopped · the backup settled · supervisor and block daemon ended (which forget their keys) · the device revoked ·
 * keys erased · files removed. Until the keys are erased nothing of the person is gone; from there on the mark of temporary-home.ts has
 * the next agent finish what is broken off.
 */
import { CollectiveError, hasCode, type Profile } from '@collective/shared';
import type { Home } from '../home.js';
import { megabytes } from '../megabytes.js';
import type { JobContext } from './agent-server.js';
import type { LogoutReply, LogoutRequest } from './agent-types.js';
import type { BackupSettling, Unsaved } from './backup-settling.js';
import type { MachinePort } from './machine-port.js';
import type { ObjectCache } from './object-cache.js';
import type { Session } from './session.js';
import { eraseSession } from './session-file.js';
import { mark, removePerson } from './temporary-home.js';

export type LogoutParts = {
  readonly home: Home;
  readonly objects: ObjectCache;
  readonly machines: MachinePort;
  readonly backup: BackupSettling;
  /** Undefined: nobody is logged in, and what a person left here is to be removed. */
  readonly session: Session | undefined;
  /** Nothing stays. */
  readonly isRemoval: boolean;
  /** Ends what works with the session. */
  readonly beforeEnd: () => Promise<void>;
  readonly job: JobContext;
};

/**
 * Errors: `in-use` while a machine runs, `unsaved` with `data.unsavedBytes`; then nothing was changed, but machines that were to be
 * stopped are.
 */
export async function logOut(request: LogoutRequest, parts: LogoutParts): Promise<LogoutReply> {
  const { home, machines, session, isRemoval } = parts;
  if (request.stop === true) await stopAll(parts);
  if (!isRemoval) {
    await parts.beforeEnd();
    await endSession(home, session);
    return { removed: false, notes: [] };
  }
  await assertAtRest(machines);
  await leaveNothing(request, parts);
  await parts.beforeEnd();
  await machines.shutdown();
  await mark(home);
  const notes = session === undefined ? [] : await revokeThisDevice(session);
  await endSession(home, session);
  await parts.objects.away(async () => removePerson(home));
  return { removed: true, notes };
}

async function endSession(home: Home, session: Session | undefined): Promise<void> {
  await session?.release();
  await eraseSession(home);
  await session?.end();
}

async function stopAll({ machines, job }: LogoutParts): Promise<void> {
  const running = await runningMachines(machines);
  if (running.length > 0) job.emit({ event: 'progress', step: 'stop', text: `Stopping ${running.join(', ')}` });
  await Promise.all(running.map(async (name) => machines.stop(name, { force: false, wait: true })));
}

async function assertAtRest(machines: MachinePort): Promise<void> {
  const running = await runningMachines(machines);
  if (running.length === 0) return;
  throw new CollectiveError(
    'in-use',
    `${running.join(', ')} ${running.length === 1 ? 'is' : 'are'} running: stop ${running.length === 1 ? 'it' : 'them'} first, or log out with --stop.`,
  );
}

const AT_REST = ['stopped', 'failed', 'suspended'];
const runningMachines = async (machines: MachinePort): Promise<string[]> =>
  (await machines.status()).machines.filter(({ state }) => !AT_REST.includes(state)).map(({ name }) => name);

/** Waits for the backup, unless the person does not want what is left. Errors: `unsaved`. */
async function leaveNothing(request: LogoutRequest, { machines, backup, job }: LogoutParts): Promise<void> {
  if (request.discard === true) return;
  const left = await backup.settle({
    signal: job.signal,
    onProgress: (now) =>
      job.emit({ event: 'progress', step: 'save', text: `Saving what is only here: ${describe(now)}` }),
  });
  job.signal.throwIfAborted();
  const suspended = (await machines.suspended()).map(({ name }) => name);
  if (left.unsavedBytes === 0 && suspended.length === 0) return;
  const parts = [
    ...(left.unsavedBytes === 0 ? [] : [describe(left)]),
    ...suspended.map((name) => `what ${name}, which is suspended, has in memory`),
  ];
  throw new CollectiveError('unsaved', `Only on this machine, and lost with it: ${parts.join('; ')}.`, {
    data: { unsavedBytes: left.unsavedBytes, suspended: suspended.length },
  });
}

const describe = ({ machines }: Unsaved): string =>
  machines.map(({ name, unsavedBytes }) => `${megabytes(unsavedBytes)} of ${name}`).join(', ');

/**
 * Its keys are about to be gone, so nobody can have them: no new key epoch begins. Gives what the person has to know when the repository
 * could not be told. The profile comes first, because revoking ends the token; that it cannot be written does not keep the device.
 */
export async function revokeThisDevice(session: Session): Promise<readonly string[]> {
  const { device, deviceName } = session.device;
  const isListed = session.profile.profile?.devices.some((row) => row.device === device) === true;
  if (isListed) await session.profile.update((profile) => withoutDevice(profile, device)).catch(unlessKnown);
  try {
    await session.client.call('revokeDevice', { params: { device } });
    return [];
  } catch (error) {
    unlessKnown(error);
    if (hasCode(error, 'device-revoked') || hasCode(error, 'revoked')) return [];
    const reason = error instanceof Error ? error.message : String(error);
    return [
      `The repository could not be told (${reason}): "${deviceName}" stays in your list of devices until you revoke it on another one. Its keys are gone.`,
    ];
  }
}

const withoutDevice = (profile: Profile, device: string): Profile => {
  const devices = profile.devices.filter((row) => row.device !== device);
  return devices.length === profile.devices.length ? profile : { ...profile, devices };
};

const unlessKnown = (error: unknown): void => {
  if (!(error instanceof CollectiveError)) throw error;
};
