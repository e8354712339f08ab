/** Subscriptions, leases, the index of snapshots and their uploads, in memory: part of the catalogue's double. */
import { type SubscriptionName } from '../storage/blob-names.js';
import {
  type DeviceBase,
  type SnapshotRecord,
  type SnapshotUpload,
  type SubscriptionRecord,
  type Subscriptions,
} from '../catalogue/subscriptions.js';

type Numbered = SnapshotRecord & { readonly sequence: number };

/** Rows are never changed, only replaced. */
export class SubscriptionTables {
  readonly subscriptions = new Map<string, SubscriptionRecord>();
  readonly deviceBases = new Map<string, ReadonlyMap<string, DeviceBase>>();
  readonly snapshots = new Map<string, Numbered>();
  readonly uploads = new Map<string, SnapshotUpload>();
  sequence = 0;

  copy(): SubscriptionTables {
    const copy = new SubscriptionTables();
    for (const [key, row] of this.subscriptions) copy.subscriptions.set(key, row);
    for (const [key, row] of this.deviceBases) copy.deviceBases.set(key, row);
    for (const [key, row] of this.snapshots) copy.snapshots.set(key, row);
    for (const [key, row] of this.uploads) copy.uploads.set(key, row);
    copy.sequence = this.sequence;
    return copy;
  }
}

const keyOf = ({ account, subscription }: SubscriptionName): string => `${account}/${subscription}`;
const snapshotKey = (of: SubscriptionName, number: number): string => `${keyOf(of)}/${number}`;
const byName = (a: SubscriptionName, b: SubscriptionName): number => (keyOf(a) < keyOf(b) ? -1 : 1);
const withoutSequence = ({ sequence: _sequence, ...record }: Numbered): SnapshotRecord => record;

export const memorySubscriptions = (tables: SubscriptionTables): Subscriptions => {
  const { subscriptions, deviceBases, snapshots, uploads } = tables;
  const change = (
    of: SubscriptionName,
    by: (old: SubscriptionRecord) => Partial<SubscriptionRecord> | undefined,
  ): boolean => {
    const old = subscriptions.get(keyOf(of));
    const changes = old === undefined ? undefined : by(old);
    if (old === undefined || changes === undefined) return false;
    subscriptions.set(keyOf(of), { ...old, ...changes });
    return true;
  };
  const rows = (of: SubscriptionName): Numbered[] =>
    [...snapshots.values()].filter((row) => keyOf(row) === keyOf(of)).sort((a, b) => a.number - b.number);
  const inOrder = (): Numbered[] => [...snapshots.values()].sort((a, b) => a.sequence - b.sequence);
  return {
    addSubscription: async (record) => {
      if (subscriptions.has(keyOf(record))) return false;
      subscriptions.set(keyOf(record), record);
      return true;
    },
    subscription: async (of) => subscriptions.get(keyOf(of)),
    subscriptionsOf: async (account) =>
      [...subscriptions.values()]
        .filter((record) => record.account === account)
        .sort((a, b) => a.createdAt - b.createdAt || byName(a, b)),
    subscriptions: async () =>
      [...subscriptions.values()].sort(byName).map(({ account, subscription }) => ({ account, subscription })),
    setSubscriptionState: async (of, state, stateSince) => void change(of, () => ({ state, stateSince })),
    setLease: async (of, lease) =>
      void change(of, (old) => ({ lease, leaseNumber: Math.max(old.leaseNumber, lease.lease) })),
    beat: async (of, lease, heartbeat) =>
      change(of, (old) =>
        old.lease?.lease !== lease || old.lease.isReleased ? undefined : { lease: { ...old.lease, ...heartbeat } },
      ),
    releaseLease: async (of, lease) =>
      change(of, (old) =>
        old.lease?.lease !== lease ? undefined : { lease: { ...old.lease, isReleased: true, isRunning: false } },
      ),
    raiseLeaseNumber: async (of, atLeast) =>
      void change(of, (old) => ({ leaseNumber: Math.max(old.leaseNumber, atLeast) })),
    raiseDeviceBase: async (of, device, number) => {
      const rows = new Map(deviceBases.get(keyOf(of)));
      rows.set(device, { device, number: Math.max(number, rows.get(device)?.number ?? 0) });
      deviceBases.set(keyOf(of), rows);
    },
    deviceBases: async (of) =>
      [...(deviceBases.get(keyOf(of))?.values() ?? [])].sort((a, b) => (a.device < b.device ? -1 : 1)),

    recordSnapshot: async (record) => {
      const key = snapshotKey(record, record.number);
      const old = snapshots.get(key);
      if (old === undefined) tables.sequence += 1;
      snapshots.set(key, { ...record, sequence: old?.sequence ?? tables.sequence });
    },
    snapshot: async (of, number) => {
      const row = snapshots.get(snapshotKey(of, number));
      return row === undefined ? undefined : withoutSequence(row);
    },
    head: async (of) => {
      const row = rows(of)
        .filter(({ state }) => state !== 'pending')
        .at(-1);
      return row === undefined ? undefined : withoutSequence(row);
    },
    snapshots: async (of, states) =>
      rows(of)
        .filter(({ state }) => states.includes(state))
        .map(withoutSequence),
    retainedSnapshots: async (of) =>
      rows(of)
        .filter(({ state }) => state === 'kept')
        .map(({ number, committedAt, pinned }) => ({ number, committedAt, pinned })),
    snapshotsBelow: async (of, below, { states, countMax }) =>
      rows(of)
        .filter(({ number, state }) => number < below && states.includes(state))
        .reverse()
        .slice(0, countMax)
        .map(withoutSequence),
    snapshotNumbers: async (of) => rows(of).map(({ number }) => number),
    pendingSnapshots: async () =>
      inOrder()
        .filter(({ state }) => state === 'pending')
        .map(withoutSequence),
    setSnapshotState: async (of, number, mark) => {
      const key = snapshotKey(of, number);
      const old = snapshots.get(key);
      if (old !== undefined) snapshots.set(key, { ...old, ...mark });
    },
    removeSnapshot: async (of, number) => void snapshots.delete(snapshotKey(of, number)),
    snapshotSequence: async () => tables.sequence,
    snapshotsSince: async (sequence) =>
      inOrder()
        .filter((row) => row.sequence > sequence)
        .map(withoutSequence),

    addSnapshotUpload: async (upload) => void uploads.set(upload.id, upload),
    snapshotUpload: async (id) => uploads.get(id),
    openSnapshotUploads: async (account) =>
      [...uploads.values()]
        .filter((upload) => upload.account === account && upload.committed === undefined)
        .sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1)),
    snapshotUploadIds: async () => new Set(uploads.keys()),
    setReceivedBytes: async (id, { from, to, expiresAt }) => {
      const upload = uploads.get(id);
      if (upload === undefined || upload.receivedBytes !== from || upload.committed !== undefined) return false;
      uploads.set(id, { ...upload, receivedBytes: to, expiresAt });
      return true;
    },
    markSnapshotCommitted: async (id, committed) => {
      const upload = uploads.get(id);
      if (upload !== undefined) uploads.set(id, { ...upload, committed });
    },
    removeSnapshotUpload: async (id) => void uploads.delete(id),
    removeEndedSnapshotUploads: async (now) => {
      for (const [id, upload] of uploads) if (upload.expiresAt <= now) uploads.delete(id);
    },
  };
};
