/**
 * The part of the catalogue's seam that belongs to persons' data: subscriptions with their leases, an index of their
 * snapshots, and upload sessions of snapshot objects. As in the rest of the seam one method is one transaction, and what
 * it acknowledges is durable.
 *
 * Subscriptions and snapshots are an index of the blob store: the files are the truth, and `healSubscriptions` makes the
 * rows agree with them at start. Leases, what devices are based on, and sessions are here alone; a lost catalogue loses
 * them, and the number of the next lease then begins above the highest that a manifest names.
 */
import { type Digest, type SnapshotReason } from '@collective/shared';
import { type SubscriptionName } from '../storage/blob-names.js';

/** In use; deleted with everything kept for the grace time; forgotten: its objects may go, its id is never used again. */
export const SUBSCRIPTION_STATES = ['live', 'deleted', 'forgotten'] as const;
export type SubscriptionPhase = (typeof SUBSCRIPTION_STATES)[number];

export type LeaseRecord = {
  readonly lease: number;
  readonly device: Digest;
  readonly takenAt: number;
  readonly lastHeartbeatAt: number;
  /** What the device had not uploaded when it last said so. */
  readonly unsavedBytes: number;
  readonly isRunning: boolean;
  readonly isReleased: boolean;
};
export type Heartbeat = Pick<LeaseRecord, 'lastHeartbeatAt' | 'unsavedBytes' | 'isRunning'>;

/** The snapshot that a device's disks were based on when it last said so. */
export type DeviceBase = { readonly device: Digest; readonly number: number };

export type SubscriptionRecord = SubscriptionName & {
  readonly appliance: string;
  readonly createdAt: number;
  readonly state: SubscriptionPhase;
  readonly stateSince: number;
  /** The highest that was ever given; 0 for none. */
  readonly leaseNumber: number;
  /** The newest lease, released or not. */
  readonly lease: LeaseRecord | undefined;
};

/**
 * `pending` only within a commit, or left by one that was killed: its manifest may be there or not. Deleted: kept for the
 * grace time. Forgotten: its object may be gone.
 */
export const SNAPSHOT_STATES = ['pending', 'kept', 'deleted', 'forgotten'] as const;
export type SnapshotPhase = (typeof SNAPSHOT_STATES)[number];

export type SnapshotMark = {
  readonly state: SnapshotPhase;
  readonly stateSince: number;
  readonly pinned: boolean;
};
export type SnapshotRecord = SubscriptionName &
  SnapshotMark & {
    readonly number: number;
    readonly manifest: Digest;
    /** By the device's clock. */
    readonly createdAt: number;
    /** By the server's clock. */
    readonly committedAt: number;
    readonly reason: SnapshotReason;
    /** Bytes of its object when it was committed. */
    readonly addedBytes: number;
  };

export type RetainedSnapshot = Pick<SnapshotRecord, 'number' | 'committedAt' | 'pinned'>;

export type SnapshotUpload = SubscriptionName & {
  readonly id: string;
  readonly device: Digest;
  readonly number: number;
  readonly parent: { readonly number: number; readonly manifest: Digest } | undefined;
  readonly createdAt: number;
  readonly expiresAt: number;
  /** Durable in the file of the upload; what is behind it there counts for nothing. */
  readonly receivedBytes: number;
  /** Set by the commit. */
  readonly committed: Digest | undefined;
};

export interface Subscriptions {
  /** False when there is one of that name. */
  addSubscription(record: SubscriptionRecord): Promise<boolean>;
  subscription(of: SubscriptionName): Promise<SubscriptionRecord | undefined>;
  /** By the time of their creation, whatever their state. */
  subscriptionsOf(account: string): Promise<SubscriptionRecord[]>;
  /** All of all persons, by name. */
  subscriptions(): Promise<SubscriptionName[]>;
  setSubscriptionState(of: SubscriptionName, state: SubscriptionPhase, since: number): Promise<void>;
  /** Puts a new lease in the place of the old one. Call it under the lock: a commit must not overlap a taking. */
  setLease(of: SubscriptionName, lease: LeaseRecord): Promise<void>;
  /** False when that lease is not the newest one or has been released. */
  beat(of: SubscriptionName, lease: number, heartbeat: Heartbeat): Promise<boolean>;
  /** False when that lease is not the newest one; twice is fine. */
  releaseLease(of: SubscriptionName, lease: number): Promise<boolean>;
  /** The next lease gets a higher number than this. */
  raiseLeaseNumber(of: SubscriptionName, atLeast: number): Promise<void>;
  /** A device only ever moves on to later snapshots: a lower number is of a message that a commit has overtaken, and changes nothing. */
  raiseDeviceBase(of: SubscriptionName, device: Digest, number: number): Promise<void>;
  /** By device. */
  deviceBases(of: SubscriptionName): Promise<DeviceBase[]>;

  /** Adds or replaces the row. */
  recordSnapshot(record: SnapshotRecord): Promise<void>;
  snapshot(of: SubscriptionName, number: number): Promise<SnapshotRecord | undefined>;
  /** The highest that is not pending. */
  head(of: SubscriptionName): Promise<SnapshotRecord | undefined>;
  /** Ascending; those in one of these states. */
  snapshots(of: SubscriptionName, states: readonly SnapshotPhase[]): Promise<SnapshotRecord[]>;
  /** Of the kept ones what retention looks at, ascending: there may be tens of thousands, at each commit. */
  retainedSnapshots(of: SubscriptionName): Promise<RetainedSnapshot[]>;
  /** Descending, from below that number, at most `countMax`. */
  snapshotsBelow(
    of: SubscriptionName,
    below: number,
    options: { readonly states: readonly SnapshotPhase[]; readonly countMax: number },
  ): Promise<SnapshotRecord[]>;
  /** Numbers of all rows, ascending. */
  snapshotNumbers(of: SubscriptionName): Promise<number[]>;
  pendingSnapshots(): Promise<SnapshotRecord[]>;
  setSnapshotState(of: SubscriptionName, number: number, mark: SnapshotMark): Promise<void>;
  removeSnapshot(of: SubscriptionName, number: number): Promise<void>;
  /** Grows with each new row. */
  snapshotSequence(): Promise<number>;
  /** Rows that are newer than that. */
  snapshotsSince(sequence: number): Promise<SnapshotRecord[]>;

  addSnapshotUpload(upload: SnapshotUpload): Promise<void>;
  snapshotUpload(id: string): Promise<SnapshotUpload | undefined>;
  /** Those that are not committed, oldest first. */
  openSnapshotUploads(account: string): Promise<SnapshotUpload[]>;
  /** Ids of all sessions. */
  snapshotUploadIds(): Promise<Set<string>>;
  /** False when the session has ended or has not exactly `from` bytes. */
  setReceivedBytes(
    id: string,
    bytes: { readonly from: number; readonly to: number; readonly expiresAt: number },
  ): Promise<boolean>;
  markSnapshotCommitted(id: string, manifest: Digest): Promise<void>;
  removeSnapshotUpload(id: string): Promise<void>;
  /** Forgets the sessions that have expired, committed or not. */
  removeEndedSnapshotUploads(now: number): Promise<void>;
}
