/** What `status` says of the backup of one machine. */
import type { BackupStatus } from '../backup/backup-status.js';
import type { MachineBackup } from '../backup/machine-backup.js';
import type { DataStatus } from './data-types.js';

export async function statusOf(backup: MachineBackup): Promise<DataStatus> {
  // One machine whose disks cannot be read hides no other one.
  return backup.status().then(dataStatus, (error: unknown) => unreadable(backup, error));
}

/** How much of it is unsaved nobody can tell: `why` says so. */
const unreadable = ({ state: { head } }: MachineBackup, error: unknown): DataStatus => ({
  savedAt: head?.committedAt ?? null,
  savedBy: head?.deviceName ?? null,
  unsavedBytes: 0,
  activity: 'waiting',
  why: `what is here cannot be read: ${error instanceof Error ? error.message : String(error)}`,
});

const dataStatus = ({ saved, unsavedBytes, activity, trouble, apart: how }: BackupStatus): DataStatus => {
  const why = how !== null ? `"${how.deviceName}" went on` : trouble?.message;
  return {
    savedAt: saved?.at ?? null,
    savedBy: saved?.deviceName ?? null,
    unsavedBytes,
    activity: activity === 'idle' || activity === 'apart' || activity === 'waiting' ? activity : 'saving',
    ...(why === undefined ? {} : { why }),
  };
};
