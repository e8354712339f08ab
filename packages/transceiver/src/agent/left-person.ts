/**
 * When an agent starts: a person who was here only for now, and whose session is gone, is removed. Their session's keys were in memory
 * only, so that after a restart of the computer nobody could read what is left; it goes all the same. So does the rest of a removal that
 * was broken off.
 */
import { hasCode } from '@collective/shared';
import { ControlClient } from '../blockd/control/control-client.js';
import type { Home } from '../home.js';
import { isAlive } from '../machine/process-identity.js';
import { MachineRecords } from '../supervisor/machine-record.js';
import { SupervisorClient } from '../supervisor/supervisor-client.js';
import { readDeviceFile } from './device-file.js';
import { eraseSession, loadSession } from './session-file.js';
import { foundTemporaryHome, isMarked, removePerson } from './temporary-home.js';

/**
 * True when somebody was removed. The caller holds the home's lock, and nothing of the home is open yet. Errors: those of the file system
 * and of a supervisor that does not end; then the next agent tries again.
 */
export async function removeLeftPerson(home: Home): Promise<boolean> {
  if (!(await isMarked(home))) return false;
  const place = await foundTemporaryHome(home);
  if (await isSessionThere(place)) return false;
  await endMachines(home);
  await eraseSession(home);
  await removePerson(place);
  return true;
}

/** Whether the next agent can take up the session that was only for now. */
async function isSessionThere(place: Home): Promise<boolean> {
  const keys = await loadSession(place);
  return keys?.stay === 'now' && (await readDeviceFile(place.deviceFile))?.account === keys.account;
}

/** Whatever still runs belongs to that session. */
async function endMachines(home: Home): Promise<void> {
  if (!(await isAnythingAlive(home))) return;
  // Without a supervisor one is started, which adopts what is there.
  const client = await SupervisorClient.open(home);
  try {
    const closed = new Promise<void>((resolve) => client.once('close', resolve));
    await client.request('shutdown', { stopMachines: true, deadlineMs: 0 });
    await closed;
  } catch (error) {
    if (!hasCode(error, 'shutting-down')) throw error;
  } finally {
    client.close();
  }
}

async function isAnythingAlive(home: Home): Promise<boolean> {
  for (const connect of [SupervisorClient.connect(home), ControlClient.connect(home.blockdSocket)]) {
    const client = await connect.catch(() => undefined);
    client?.close();
    if (client !== undefined) return true;
  }
  const records = await new MachineRecords(home.machinesDirectory).list(() => undefined);
  const alive = await Promise.all(records.map(async ({ qemu }) => qemu !== null && (await isAlive(qemu))));
  return alive.includes(true);
}
