/**
 * An old snapshot, at hand to be read: its maps are fetched and verified, and lie in a folder of their own beside the machine's overlays.
 * Opened for good (`isKept`, for a guest that is shown it) the folder stays until `reset` clears it.
 */
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError } from '@collective/shared';
import { fetchSnapshot } from '../backup/restore.js';
import type { Home } from '../home.js';
import type { DiskSource } from '../supervisor/disk-service.js';
import type { PersonData } from './person-data.js';
import type { Session } from './session.js';

export type OpenedSnapshot = AsyncDisposable & { readonly disk: string; readonly source: DiskSource };

/** Where the maps of opened snapshots of a machine lie. */
export const openedFolder = (home: Pick<Home, 'machinesDirectory'>, name: string): string =>
  join(home.machinesDirectory, name, 'opened');

/** Errors: `not-found` for a snapshot or disk that is not there, `untrusted`, those of the network; `usage` when there are several disks. */
export async function openedSnapshot(
  wanted: { readonly name: string; readonly snapshot: number; readonly disk?: string | undefined },
  parts: {
    readonly home: Home;
    readonly session: Session;
    readonly data: PersonData;
    readonly signal?: AbortSignal;
    readonly isKept?: boolean;
  },
): Promise<OpenedSnapshot> {
  const { name, snapshot: number } = wanted;
  const { home, data, signal } = parts;
  const { subscription } = data.backup(name).state;
  // What ends takes its folder with it: never one that a guest is shown.
  const own = parts.isKept === true ? '' : `-${randomBytes(4).toString('hex')}`;
  const root = join(openedFolder(home, name), `${String(number)}${own}`);
  const restore = { ...data.restoreParts(name, signal), overlayOf: (disk: string) => join(root, disk) };
  const found = await fetchSnapshot(restore, { subscription, number });
  const names = found.disks.map(({ disk }) => disk.name);
  const chosen = found.disks.find(({ disk }) =>
    wanted.disk === undefined ? names.length === 1 : disk.name === wanted.disk,
  );
  if (chosen === undefined)
    throw new CollectiveError(
      wanted.disk === undefined ? 'usage' : 'not-found',
      `Say which disk with --disk: snapshot ${String(number)} of ${name} has ${names.join(', ')}.`,
    );
  return {
    disk: chosen.disk.name,
    source: { kind: 'snapshot', folder: join(root, chosen.disk.name), base: chosen.base.name },
    [Symbol.asyncDispose]: async () => {
      if (parts.isKept !== true) await rm(root, { recursive: true, force: true });
    },
  };
}
