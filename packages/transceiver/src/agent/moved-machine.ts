/**
 * A machine whose folder is to get another name: `keep both` made a subscription of its own of it, or all other devices know it under
 * another name. `movesTo` in its backup.json is durable before the folder is renamed and goes after; so whoever opens the machine after a
 * kill anywhere between goes on. Nothing runs of it: its disks' paths are in nobody's hands but the backup's, which lets go of them.
 */
import { existsSync } from 'node:fs';
import { readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { BackupFile } from '../backup/backup-file.js';
import { freeName } from '../backup/profile-subscriptions.js';
import { syncFolder } from '../storage/durable-file.js';

/**
 * Its name from now on. A machine that runs or is suspended keeps the one that it has, and moves when it is opened the next time.
 * `release`: nothing of the backup has its disks afterwards. Errors: `malformed` for a damaged backup.json, `local-io`.
 */
export async function finishMove(
  machinesDirectory: string,
  name: string,
  { release }: { readonly release: () => Promise<void> },
): Promise<string> {
  const folder = join(machinesDirectory, name);
  const file = await BackupFile.open(folder);
  const wanted = file?.state.movesTo;
  if (file === undefined || wanted === undefined) return name;
  if (wanted === name) {
    await forget(file);
    return name;
  }
  if (['machine.json', join('memory', 'image.json')].some((path) => existsSync(join(folder, path)))) return name;
  let to = wanted;
  if (existsSync(join(machinesDirectory, wanted))) {
    to = freeName(wanted, await readdir(machinesDirectory));
    await file.update((state) => ({ ...state, movesTo: to }));
  }
  await release();
  await rename(folder, join(machinesDirectory, to));
  // Before its note goes: else a power cut could leave the old name without it.
  await syncFolder(machinesDirectory);
  const moved = await BackupFile.open(join(machinesDirectory, to));
  if (moved !== undefined) await forget(moved);
  return to;
}

const forget = async (file: BackupFile): Promise<void> => {
  await file.update(({ movesTo: _done, ...state }) => state);
};
