/**
 * Another version of the appliance is about to be started over the same user disks. Before it: what the version before wrote
 * is sealed as its own, and the last of it will be pinned, so that `undo` offers both together. With it: a user disk that it
 * brings belongs to the subscription, and one that it does not have is carried along. Nothing here needs a network.
 */
import { CollectiveError, SNAPSHOT_USER_DISKS_MAX } from '@collective/shared';
import type { BackupDisk, DiskBeginning, Writer } from './backup-file.js';
import type { MachineBackup } from './machine-backup.js';
import { isSameWriter, withEnd } from './pending-seals.js';

/** Would the start of this version be that of another one than what wrote the disks? */
export const isVersionChange = ({ state: { writer } }: MachineBackup, version: Writer): boolean =>
  writer !== null && !isSameWriter(writer, version);

/**
 * The machine does not run. Durable when it resolves; again is the same. Always by a seal: how much a layer holds does not
 * tell of what was only trimmed. Errors: those of the seal.
 */
export async function endVersion(backup: MachineBackup): Promise<void> {
  await backup.seal('stop', { isOfAll: true });
  await backup.alone(async ({ file }) => file.update(withEnd));
}

/**
 * From now on what is sealed is of this version. `disks`: those of its disks that the subscription does not have yet, as they
 * begin; `attached`: all user disks that the machine will have, with their buses. Durable when it resolves, before the
 * version's first instruction. Errors: `bad-machine` when the subscription would get too many disks.
 */
export async function beginVersion(
  backup: MachineBackup,
  version: {
    readonly writer: Writer;
    readonly disks: readonly DiskBeginning[];
    readonly attached: ReadonlyMap<string, BackupDisk['bus']>;
  },
): Promise<void> {
  const { writer, disks: brought, attached } = version;
  await backup.alone(async ({ file }) =>
    file.update((state) => {
      const added = brought.filter(({ name }) => state.disks.every((disk) => disk.name !== name));
      const all: BackupDisk[] = [
        ...state.disks,
        ...added.map((disk) => ({ ...disk, committed: null, isAttached: true })),
      ];
      if (all.length > SNAPSHOT_USER_DISKS_MAX)
        throw new CollectiveError(
          'bad-machine',
          `${backup.name} would have ${String(all.length)} user disks with those of earlier versions; at most ${String(SNAPSHOT_USER_DISKS_MAX)} are kept.`,
        );
      const disks = all.map((disk) => {
        const bus = attached.get(disk.name);
        return bus === undefined ? { ...disk, isAttached: false } : { ...disk, isAttached: true, bus };
      });
      return { ...state, writer, disks };
    }),
  );
}
