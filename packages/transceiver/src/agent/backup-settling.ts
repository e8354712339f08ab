/**
 * The backup as a logout sees it: what of the person's data would be lost with this machine. One method, so that the logout knows nothing
 * of snapshots. `localDisks` is what it is without a backup: everything that was written to a user disk is only here.
 */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Home } from '../home.js';
import { isErrno } from '../storage/durable-file.js';
import { Subscription } from './subscription.js';

export type Unsaved = {
  readonly unsavedBytes: number;
  /** Those of which something is unsaved. */
  readonly machines: readonly { readonly name: string; readonly unsavedBytes: number }[];
};

export interface BackupSettling {
  /**
   * Uploads what is not saved yet and waits for it, as long as the repository can be reached; no machine runs meanwhile. Resolves with what
   * is still only on this machine: nothing, when all went well. Never fails for want of a network. The signal ends the waiting alone.
   */
  settle(options: {
    readonly signal: AbortSignal;
    /** Now and then, with what is left. */
    readonly onProgress: (left: Unsaved) => void;
  }): Promise<Unsaved>;
}

/** Counts what the layers of user disks take on the local disk. Saves nothing. */
export const localDisks = (home: Pick<Home, 'machinesDirectory'>): BackupSettling => ({
  settle: async () => unsavedOf(await writtenMachines(home, () => true)),
});

/** What is written to these user disks, by machine, where it is anything. */
export async function writtenMachines(
  home: Pick<Home, 'machinesDirectory'>,
  isWanted: (name: string, disk: string) => boolean,
): Promise<Unsaved['machines']> {
  const names = await readdir(home.machinesDirectory);
  const all = await Promise.all(
    names.map(async (name) => ({
      name,
      unsavedBytes: await writtenBytes(home.machinesDirectory, name, (disk) => isWanted(name, disk)),
    })),
  );
  return all.filter(({ unsavedBytes }) => unsavedBytes > 0);
}

export const unsavedOf = (machines: Unsaved['machines']): Unsaved => ({
  unsavedBytes: machines.reduce((total, { unsavedBytes }) => total + unsavedBytes, 0),
  machines,
});

async function writtenBytes(
  machinesDirectory: string,
  name: string,
  isWanted: (disk: string) => boolean,
): Promise<number> {
  const subscription = await Subscription.read(machinesDirectory, name);
  if (subscription === undefined) return 0;
  let bytes = 0;
  for (const disk of subscription.userDisks.filter(isWanted)) {
    const layers = join(subscription.overlayPath(disk), 'layers');
    for (const layer of await namesIn(layers)) bytes += await allocatedBytes(join(layers, layer, 'data'));
  }
  return bytes;
}

const namesIn = async (folder: string): Promise<string[]> =>
  readdir(folder).catch((error: unknown) => {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  });

/** Layers are sparse: what was written, not how long the file is. */
const allocatedBytes = async (path: string): Promise<number> =>
  stat(path).then(
    ({ blocks }) => blocks * 512,
    (error: unknown) => {
      if (isErrno(error, 'ENOENT')) return 0;
      throw error;
    },
  );
