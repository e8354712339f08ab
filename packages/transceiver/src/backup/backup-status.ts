/** What the backup of one machine says of itself. */
import type { SnapshotReason } from '@collective/shared';
import type { BackupState } from './backup-file.js';
import type { TroubleKind } from './retry-plan.js';

export type BackupActivity = 'idle' | 'packing' | 'uploading' | 'taking-over' | 'waiting' | 'apart';
export type BackupStatus = {
  readonly machine: string;
  readonly subscription: string;
  readonly appliance: string;
  readonly activity: BackupActivity;
  /** By the server's clock, and on which device; null: never. */
  readonly saved: { readonly number: number; readonly at: number; readonly deviceName: string } | null;
  /** What this machine's disk holds and the repository does not. */
  readonly unsavedBytes: number;
  readonly pending: {
    readonly reason: SnapshotReason;
    readonly createdAt: number;
    readonly objectBytes?: number;
  } | null;
  readonly lease: number | null;
  readonly apart: BackupState['apart'];
  readonly periodSeconds: number;
  /** Why it waits, since the first failure. */
  readonly trouble: { readonly kind: TroubleKind; readonly code: string; readonly message: string } | null;
};

/** `now`: what the state does not say. */
export const backupStatus = (
  { subscription, appliance, head, pending, lease, apart, periodSeconds }: BackupState,
  now: Pick<BackupStatus, 'machine' | 'unsavedBytes' | 'activity' | 'trouble'>,
): BackupStatus => ({
  ...{ ...now, subscription, appliance, lease, apart, periodSeconds },
  activity: apart === null ? now.activity : 'apart',
  saved: head === null ? null : { number: head.number, at: head.committedAt, deviceName: head.deviceName },
  pending:
    pending === null
      ? null
      : {
          ...{ reason: pending.reason, createdAt: pending.createdAt },
          ...(pending.kind === 'packed' ? { objectBytes: pending.objectBytes } : {}),
        },
});
