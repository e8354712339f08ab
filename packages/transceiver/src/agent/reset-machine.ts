/**
 * `collective reset`: what a start of a machine makes anew, or was only here, is thrown away: memory image, ephemeral disks, system
 * overlay. User disks stay, whatever of them is saved or not. Of a disk that must begin (backup/begin-disks.ts) what lies here is an ephemeral
 * one's and goes; the base over which the person's begins stays.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError, hasCode } from '@collective/shared';
import { BackupFile } from '../backup/backup-file.js';
import { isHere } from '../backup/begin-disks.js';
import { dropLayers } from '../backup/drop-layers.js';
import type { Home } from '../home.js';
import { openedFolder } from './opened-snapshot.js';
import { Subscription } from './subscription.js';
import { discardMachine, suspendedMachines } from './suspended-machines.js';

/** The machine does not run. Errors: `not-found` for one that was never here. */
export async function resetMachine(home: Home, name: string): Promise<void> {
  const subscription = await Subscription.read(home.machinesDirectory, name);
  if (subscription === undefined) throw new CollectiveError('not-found', `There is no ${name} on this machine.`);
  // A disk that was brought from the repository may be named by the backup alone. A backup that cannot be read stops the reset.
  const backup = await BackupFile.open(join(home.machinesDirectory, name));
  const disks = backup?.state.disks ?? [];
  const kept = new Set(disks.map((disk) => disk.name));
  const isSuspended = (await suspendedMachines(home)).some((machine) => machine.name === name);
  // One that cannot be read is not among them.
  await discardMachine(home, name).catch((error: unknown) => {
    if (isSuspended || !(hasCode(error, 'not-found') || hasCode(error, 'conflict'))) throw error;
  });
  for (const disk of await subscription.disksMadeAnew())
    if (!kept.has(disk)) await rm(subscription.overlayPath(disk), { recursive: true, force: true });
  for (const disk of disks) if (!isHere(disk)) await dropLayers(subscription.overlayPath(disk.name));
  await rm(openedFolder(home, name), { recursive: true, force: true });
  await rm(join(home.machinesDirectory, name, 'memory'), { recursive: true, force: true });
}
