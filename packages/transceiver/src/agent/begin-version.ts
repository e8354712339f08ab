/**
 * The start of a version, as the person's data see it: which user disks the machine will have, how those that the subscription
 * does not know yet begin, and what is noted of it before the version's first instruction.
 */
import { CollectiveError } from '@collective/shared';
import { BaseFolder } from '../backup/base-file.js';
import type { BackupDisk, BackupState, DiskBeginning, Writer } from '../backup/backup-file.js';
import type { MachineBackup } from '../backup/machine-backup.js';
import { beginVersion } from '../backup/version-change.js';
import { readMapFile } from '../blockd/control/map-file.js';
import { LocalFileSystem } from '../storage/local-file-system.js';
import type { PlannedDisk } from './machine-port.js';
import type { RunnableVersion } from './runnable-version.js';
import type { Subscription } from './subscription.js';

export type StartedVersion = { readonly appliance: string; readonly version: RunnableVersion };

export const writerOf = ({ appliance, version: { verified } }: StartedVersion): Writer => ({
  appliance,
  version: verified.manifest.version,
  manifest: verified.digest,
});

/** What a disk begins as, with its map where a base file can name it; recorded in the subscription. Errors: `local-io`. */
export async function beginningOf(
  disk: PlannedDisk,
  of: {
    readonly subscription: Subscription;
    readonly writer: Writer;
    readonly overlayOf: (disk: string) => string;
  },
): Promise<DiskBeginning> {
  const { subscription, writer, overlayOf } = of;
  const kept = await subscription.keptDisk(disk, writer.version);
  const { name, diskBytes, blockBytes, root } = kept;
  const shape = { name, bus: disk.description.bus, diskBytes, blockBytes };
  if (root === null) return { ...shape, base: null };
  const map = await readMapFile(new LocalFileSystem(), subscription.mapPath(root), { diskBytes, blockBytes, root });
  const folder = await BaseFolder.open(overlayOf(name));
  return {
    ...shape,
    base: {
      appliance: writer.appliance,
      version: kept.version,
      root,
      map: await folder.putMap(map.changesSince(undefined)),
    },
  };
}

/**
 * The version writes the disks from now on: a user disk that it brings is part of the subscription, and one that it does not
 * have is carried along. Durable when it resolves; again is the same. Errors: `bad-machine`, `local-io`.
 */
export async function noteVersion(
  backup: MachineBackup,
  of: StartedVersion & { readonly subscription: Subscription },
): Promise<void> {
  const { subscription, version } = of;
  const writer = writerOf(of);
  const attached = attachedDisks(version, backup);
  await keepDisks(backup, subscription, writer.version);
  const disks: DiskBeginning[] = [];
  for (const disk of version.disks)
    if (attached.has(disk.description.name) && !isKnown(backup.state, disk))
      disks.push(await beginningOf(disk, { subscription, writer, overlayOf: backup.parts.overlayOf }));
  await beginVersion(backup, { writer, disks, attached });
}

/** Whatever is noted of a person's disk, a reset leaves its overlay, also while no version has it. `version`: of a disk that began with none. */
export async function keepDisks(
  { state }: Pick<MachineBackup, 'state'>,
  subscription: Subscription,
  version: number,
): Promise<void> {
  for (const { name, diskBytes, blockBytes, base } of state.disks)
    await subscription.keptSnapshotDisk({ name, diskBytes, blockBytes }, base?.version ?? version);
}

/**
 * User disks, and what this version calls ephemeral though the person's data are on it. Errors: `bad-machine` for a system
 * disk of the name of a user disk: its overlay, which is thrown away, would take the place of the person's.
 */
function attachedDisks(
  { disks }: RunnableVersion,
  { state, name }: MachineBackup,
): ReadonlyMap<string, BackupDisk['bus']> {
  const attached = new Map<string, BackupDisk['bus']>();
  for (const disk of disks) {
    const { description } = disk;
    const isOurs = isKnown(state, disk);
    if (description.kind === 'system' && isOurs)
      throw new CollectiveError(
        'bad-machine',
        `The system disk ${description.name} of this version has the name of a disk of yours of ${name}.`,
      );
    if (description.kind === 'user' || (description.kind === 'ephemeral' && isOurs))
      attached.set(description.name, description.bus);
  }
  return attached;
}

const isKnown = ({ disks }: BackupState, { description }: PlannedDisk): boolean =>
  disks.some(({ name }) => name === description.name);
