/**
 * An old snapshot, at hand to be read: its maps are fetched and verified, and lie in a folder of their own beside the machine's overlays.
 * Opened for good (`isKept`, for a guest that is shown it) the folder stays until the guest is shown it no more, or is over; what an agent
 * that was killed has left goes when the next one takes the machine up.
 */
import { randomBytes } from 'node:crypto';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError } from '@collective/shared';
import { fetchSnapshot } from '../backup/restore.js';
import type { Home } from '../home.js';
import { isErrno } from '../storage/durable-file.js';
import type { DiskSource } from '../supervisor/disk-service.js';
import type { PersonData } from './person-data.js';
import type { Session } from './session.js';

export type OpenedSnapshot = AsyncDisposable & { readonly disk: string; readonly source: DiskSource };

/** Where the maps of opened snapshots of a machine lie. */
export const openedFolder = (home: Pick<Home, 'machinesDirectory'>, name: string): string =>
  join(home.machinesDirectory, name, 'opened');

/**
 * Removes opened snapshots: those that a guest is `shown`, when it is over; those that are `served`, when the agent that served them is gone.
 */
export async function clearOpened(
  home: Pick<Home, 'machinesDirectory'>,
  name: string,
  which: { readonly shown: boolean; readonly served: boolean },
): Promise<void> {
  const folder = openedFolder(home, name);
  const names = await readdir(folder).catch((error: unknown) => {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return [];
    throw error;
  });
  for (const opened of names)
    if (isShown(opened) ? which.shown : which.served) await rm(join(folder, opened), { recursive: true, force: true });
}

/** A guest is shown this one no more. */
export async function closeShown(home: Pick<Home, 'machinesDirectory'>, name: string, snapshot: number): Promise<void> {
  await rm(join(openedFolder(home, name), String(snapshot)), { recursive: true, force: true });
}

/** Named by its number alone. */
const isShown = (opened: string): boolean => /^[0-9]+$/.test(opened);

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
