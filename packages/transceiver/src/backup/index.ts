/** The backup of machines (docs/adr/0020) as the agent and tests use it. */
export * from './backup-file.js';
export * from './backup-person.js';
export * from './backup-types.js';
export { openPackWork, type PackWork } from './backup-work.js';
export * from './base-file.js';
export type { DiskView, SnapshotDisks } from './disk-port.js';
export { HEARTBEAT_MS, LeaseKeeper } from './lease-keeper.js';
export type { BackupActivity, BackupStatus } from './backup-status.js';
export type { PrivateTraces } from './bring-traces.js';
export { MachineBackup } from './machine-backup.js';
export { MemoryDisks, stateBytes, type FetchBlock } from './memory-disks.double.js';
export { SnapshotObjects } from './snapshot-objects.js';
export { fetchSnapshotMap } from './snapshot-maps.js';
export { SnapshotTrust, requireNotOlder, type SnapshotName, type VerifiedSnapshot } from './snapshot-trust.js';
export { LineMeter, UploadGate, PART_BYTES_MIN } from './upload-gate.js';
export { uploadObject, type UploadOptions } from './upload-snapshot.js';
export { BackupRunner, PROFILE_EVERY_MS } from './backup-runner.js';
export { freeName, namedSubscriptions, withBroughtBack, withDeleted, withHead } from './profile-subscriptions.js';
export { continueHere, continueWithout, keepBoth } from './continue.js';
export {
  fetchNewest,
  fetchSnapshot,
  newestSnapshot,
  restoreMachine,
  type BaseMaps,
  type RestoredDisk,
  type RestoredSnapshot,
  type RestoreParts,
} from './restore.js';
export { SAMPLE_BLOCKS_DEFAULT, sampleCheck, type SampleReport } from './sample-check.js';
export { catchUp, drain, prepareStart, undo, type CaughtUp, type Undone } from './switch-state.js';
export { beginVersion, endVersion, isVersionChange } from './version-change.js';
export { BlockdDisks, blockKeysOf, type BlockdControl, type BlockdDisksOptions } from './blockd-disks.js';
export { VersionBaseMaps } from './version-base-maps.js';
export { runPackTask, type PackTask } from './backup-work.js';
export { ProcessPool } from '../work/process-pool.js';
