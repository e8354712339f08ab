/** What the parts of a machine's backup share: what it works with, what it says, and what a test may look into. */
import type { SnapshotManifest } from '@collective/shared';
import type { ApartReason } from './backup-file.js';
import type { BackupPerson } from './backup-person.js';
import type { PackWork } from './backup-work.js';
import type { SnapshotDisks } from './disk-port.js';
import type { PrivateTraces } from './bring-traces.js';
import type { ObjectLimits } from './object-plan.js';
import type { TroubleKind } from './retry-plan.js';
import type { LineMeter, UploadGate } from './upload-gate.js';

/** How a wait for a snapshot ended. `away`: it is kept here and goes on by itself. */
export type SettledAs = 'saved' | 'apart' | TroubleKind;

export interface BackupClock {
  /** Since 1970, by this machine: it informs people and decides nothing. */
  nowSeconds(): number;
  /** Of a clock that only goes forward. */
  nowMs(): number;
  /** Abort rejects with the signal's reason. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

/** After each of these the agent may be killed; what follows must not depend on it. */
export type BackupStep =
  | 'disk-sealed'
  | 'seal-noted'
  | 'object-packed'
  | 'bases-written'
  | 'pack-noted'
  | 'lease-taken'
  | 'manifest-renewed'
  | 'upload-opened'
  | 'part-sent'
  | 'object-sent'
  | 'snapshot-committed'
  | 'commit-noted'
  | 'disk-rebased'
  | 'disk-begun'
  | 'base-put'
  | 'rebase-noted'
  | 'cleaned-up'
  | 'snapshot-pinned';

export type BackupEvent =
  | { readonly event: 'sealed'; readonly machine: string; readonly reason: SnapshotManifest['reason'] }
  | {
      readonly event: 'saved';
      readonly machine: string;
      readonly number: number;
      readonly committedAt: number;
      readonly reason: SnapshotManifest['reason'];
    }
  /** There was nothing new to save. */
  | { readonly event: 'unchanged'; readonly machine: string }
  | { readonly event: 'apart'; readonly machine: string; readonly why: ApartReason; readonly deviceName: string }
  | { readonly event: 'trouble'; readonly machine: string; readonly code: string; readonly message: string };

export type MachineParts = {
  /** For people and events. */
  readonly name: string;
  /** HOME/machines/NAME. */
  readonly folder: string;
  readonly overlayOf: (disk: string) => string;
  readonly person: BackupPerson;
  readonly disks: SnapshotDisks;
  /** Absent: none go with its snapshots. */
  readonly traces?: PrivateTraces;
  readonly work: PackWork;
  readonly gate: UploadGate;
  readonly line: LineMeter;
  readonly isRunning: () => boolean;
  readonly clock: BackupClock;
  readonly onEvent?: (event: BackupEvent) => void;
  /** For tests: other limits than the usual ones. */
  readonly objectLimits?: ObjectLimits;
  /** For tests: what throws here is a kill. */
  readonly onStep?: (step: BackupStep) => void | Promise<void>;
};
