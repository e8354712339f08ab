/** Subscriptions, leases, the index of snapshots, in SQLite. See the seam for what each method promises. */
import { digestBytes, digestFromBytes, SNAPSHOT_REASONS, type SnapshotReason } from '@collective/shared';
import { type SubscriptionName } from '../storage/blob-names.js';
import { type CatalogueDatabase } from './sqlite-database.js';
import { sqliteSnapshotUploads, type SnapshotUploadMethods } from './sqlite-snapshot-uploads.js';
import {
  type LeaseRecord,
  SNAPSHOT_STATES,
  type SnapshotPhase,
  type SnapshotRecord,
  SUBSCRIPTION_STATES,
  type SubscriptionPhase,
  type SubscriptionRecord,
  type Subscriptions,
} from './subscriptions.js';

type SubscriptionRow = {
  account: string;
  id: string;
  appliance: string;
  created_at: number;
  state: string;
  state_since: number;
  lease_number: number;
  lease: number | null;
  device: Buffer | null;
  taken_at: number | null;
  heartbeat_at: number | null;
  unsaved_bytes: number | null;
  is_running: number | null;
  is_released: number | null;
};
type SnapshotRow = {
  account: string;
  subscription: string;
  number: number;
  manifest: Buffer;
  created_at: number;
  committed_at: number;
  reason: string;
  added_bytes: number;
  pinned: number;
  state: string;
  state_since: number;
};
type Name = [account: string, subscription: string];

export const sqliteSubscriptions = (database: CatalogueDatabase): Subscriptions => ({
  ...subscriptionRows(database),
  ...deviceBaseRows(database),
  ...snapshotRows(database),
  ...sqliteSnapshotUploads(database),
});

type SubscriptionMethods =
  | 'addSubscription'
  | 'subscription'
  | 'subscriptionsOf'
  | 'subscriptions'
  | 'setSubscriptionState'
  | 'setLease'
  | 'beat'
  | 'releaseLease'
  | 'raiseLeaseNumber';
const subscriptionRows = ({ full }: CatalogueDatabase): Pick<Subscriptions, SubscriptionMethods> => {
  const insert = full.prepare(
    'insert or ignore into subscriptions values (?, ?, ?, ?, ?, ?, ?, null, null, null, null, null, null, null)',
  );
  const select = full.prepare<Name, SubscriptionRow>('select * from subscriptions where account = ? and id = ?');
  const selectOf = full.prepare<[string], SubscriptionRow>(
    'select * from subscriptions where account = ? order by created_at, id',
  );
  const selectAll = full.prepare<[], { account: string; id: string }>(
    'select account, id from subscriptions order by account, id',
  );
  const updateState = full.prepare('update subscriptions set state = ?, state_since = ? where account = ? and id = ?');
  const updateLease = full.prepare(`
    update subscriptions set lease_number = max(lease_number, ?), lease = ?, device = ?, taken_at = ?, heartbeat_at = ?,
      unsaved_bytes = ?, is_running = ?, is_released = ? where account = ? and id = ?`);
  const updateBeat = full.prepare(`
    update subscriptions set heartbeat_at = ?, unsaved_bytes = ?, is_running = ?
    where account = ? and id = ? and lease = ? and is_released = 0`);
  const updateReleased = full.prepare(
    'update subscriptions set is_released = 1, is_running = 0 where account = ? and id = ? and lease = ?',
  );
  const updateNumber = full.prepare(
    'update subscriptions set lease_number = max(lease_number, ?) where account = ? and id = ?',
  );
  const setLease = full.transaction(({ account, subscription }: SubscriptionName, of: LeaseRecord) => {
    const { lease, device, takenAt, lastHeartbeatAt, unsavedBytes, isRunning, isReleased } = of;
    updateLease.run(
      lease,
      lease,
      digestBytes(device),
      takenAt,
      lastHeartbeatAt,
      unsavedBytes,
      isRunning ? 1 : 0,
      isReleased ? 1 : 0,
      account,
      subscription,
    );
  });
  const add = full.transaction((record: SubscriptionRecord): boolean => {
    const { account, subscription, appliance, createdAt, state, stateSince, leaseNumber, lease } = record;
    const made = insert.run(account, subscription, appliance, createdAt, state, stateSince, leaseNumber);
    if (made.changes === 0) return false;
    if (lease !== undefined) setLease(record, lease);
    return true;
  });

  return {
    addSubscription: async (record) => add.immediate(record),
    subscription: async ({ account, subscription }) => {
      const row = select.get(account, subscription);
      return row === undefined ? undefined : toSubscription(row);
    },
    subscriptionsOf: async (account) => selectOf.all(account).map(toSubscription),
    subscriptions: async () => selectAll.all().map(({ account, id }) => ({ account, subscription: id })),
    setSubscriptionState: async ({ account, subscription }, state, since) => {
      updateState.run(state, since, account, subscription);
    },
    setLease: async (of, lease) => setLease.immediate(of, lease),
    beat: async ({ account, subscription }, lease, { lastHeartbeatAt, unsavedBytes, isRunning }) =>
      updateBeat.run(lastHeartbeatAt, unsavedBytes, isRunning ? 1 : 0, account, subscription, lease).changes > 0,
    releaseLease: async ({ account, subscription }, lease) =>
      updateReleased.run(account, subscription, lease).changes > 0,
    raiseLeaseNumber: async ({ account, subscription }, atLeast) => {
      updateNumber.run(atLeast, account, subscription);
    },
  };
};

type DeviceBaseMethods = 'raiseDeviceBase' | 'deviceBases';
const deviceBaseRows = ({ full }: CatalogueDatabase): Pick<Subscriptions, DeviceBaseMethods> => {
  const put = full.prepare(`
    insert into device_bases values (?, ?, ?, ?)
    on conflict do update set number = excluded.number where number < excluded.number`);
  const select = full.prepare<Name, { device: Buffer; number: number }>(
    'select device, number from device_bases where account = ? and subscription = ? order by device',
  );
  return {
    raiseDeviceBase: async ({ account, subscription }, device, number) => {
      put.run(account, subscription, digestBytes(device), number);
    },
    deviceBases: async ({ account, subscription }) =>
      select.all(account, subscription).map(({ device, number }) => ({ device: digestFromBytes(device), number })),
  };
};

type OtherMethods = SubscriptionMethods | DeviceBaseMethods | SnapshotUploadMethods;
const snapshotRows = ({ full }: CatalogueDatabase): Omit<Subscriptions, OtherMethods> => {
  const of = 'from snapshots where account = ? and subscription = ?';
  const inStates = '(select value from json_each(?))';
  const insert = full.prepare(`
    insert into snapshots (manifest, created_at, committed_at, reason, added_bytes, pinned, state, state_since, account,
      subscription, number) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`);
  const update = full.prepare(`
    update snapshots set manifest = ?, created_at = ?, committed_at = ?, reason = ?, added_bytes = ?, pinned = ?, state = ?,
      state_since = ? where account = ? and subscription = ? and number = ?`);
  const select = full.prepare<[...Name, number], SnapshotRow>(`select * ${of} and number = ?`);
  const selectHead = full.prepare<Name, SnapshotRow>(
    `select * ${of} and state <> 'pending' order by number desc limit 1`,
  );
  const selectIn = full.prepare<[...Name, string], SnapshotRow>(
    `select * ${of} and state in ${inStates} order by number`,
  );
  const selectRetained = full
    .prepare<Name, [number, number, number]>(
      `select number, committed_at, pinned ${of} and state = 'kept' order by number`,
    )
    .raw();
  const selectBelow = full.prepare<[...Name, number, string, number], SnapshotRow>(
    `select * ${of} and number < ? and state in ${inStates} order by number desc limit ?`,
  );
  const selectNumbers = full.prepare<Name, { number: number }>(`select number ${of} order by number`);
  const selectPending = full.prepare<[], SnapshotRow>(
    "select * from snapshots where state = 'pending' order by sequence",
  );
  const updateState = full.prepare(
    'update snapshots set state = ?, state_since = ?, pinned = ? where account = ? and subscription = ? and number = ?',
  );
  const remove = full.prepare(`delete ${of} and number = ?`);
  const selectSequence = full.prepare<[], { value: number | null }>(
    "select seq as value from sqlite_sequence where name = 'snapshots'",
  );
  const selectSince = full.prepare<[number], SnapshotRow>(
    'select * from snapshots where sequence > ? order by sequence',
  );
  // Not an upsert, which takes a sequence for a row that it then only changes.
  const put = full.transaction((record: SnapshotRecord) => {
    const { manifest, createdAt, committedAt, reason, addedBytes, pinned, state, stateSince } = record;
    const values = [
      digestBytes(manifest),
      createdAt,
      committedAt,
      reason,
      addedBytes,
      pinned ? 1 : 0,
      state,
      stateSince,
    ];
    const key = [record.account, record.subscription, record.number];
    if (update.run(...values, ...key).changes === 0) insert.run(...values, ...key);
  });

  return {
    recordSnapshot: async (record) => put.immediate(record),
    snapshot: async ({ account, subscription }, number) => {
      const row = select.get(account, subscription, number);
      return row === undefined ? undefined : toSnapshot(row);
    },
    head: async ({ account, subscription }) => {
      const row = selectHead.get(account, subscription);
      return row === undefined ? undefined : toSnapshot(row);
    },
    snapshots: async ({ account, subscription }, states) =>
      selectIn.all(account, subscription, JSON.stringify(states)).map(toSnapshot),
    retainedSnapshots: async ({ account, subscription }) =>
      selectRetained
        .all(account, subscription)
        .map(([number, committedAt, pinned]) => ({ number, committedAt, pinned: pinned !== 0 })),
    snapshotsBelow: async ({ account, subscription }, below, { states, countMax }) =>
      selectBelow.all(account, subscription, below, JSON.stringify(states), countMax).map(toSnapshot),
    snapshotNumbers: async ({ account, subscription }) =>
      selectNumbers.all(account, subscription).map(({ number }) => number),
    pendingSnapshots: async () => selectPending.all().map(toSnapshot),
    setSnapshotState: async ({ account, subscription }, number, { state, stateSince, pinned }) => {
      updateState.run(state, stateSince, pinned ? 1 : 0, account, subscription, number);
    },
    removeSnapshot: async ({ account, subscription }, number) => {
      remove.run(account, subscription, number);
    },
    snapshotSequence: async () => selectSequence.get()?.value ?? 0,
    snapshotsSince: async (sequence) => selectSince.all(sequence).map(toSnapshot),
  };
};

const toSubscription = (row: SubscriptionRow): SubscriptionRecord => ({
  account: row.account,
  subscription: row.id,
  appliance: row.appliance,
  createdAt: row.created_at,
  state: toPhase(row.state),
  stateSince: row.state_since,
  leaseNumber: row.lease_number,
  lease: toLease(row),
});

const toLease = (row: SubscriptionRow): LeaseRecord | undefined =>
  row.lease === null || row.device === null
    ? undefined
    : {
        lease: row.lease,
        device: digestFromBytes(row.device),
        takenAt: row.taken_at ?? 0,
        lastHeartbeatAt: row.heartbeat_at ?? 0,
        unsavedBytes: row.unsaved_bytes ?? 0,
        isRunning: row.is_running === 1,
        isReleased: row.is_released === 1,
      };

const toSnapshot = (row: SnapshotRow): SnapshotRecord => ({
  account: row.account,
  subscription: row.subscription,
  number: row.number,
  manifest: digestFromBytes(row.manifest),
  createdAt: row.created_at,
  committedAt: row.committed_at,
  reason: toReason(row.reason),
  addedBytes: row.added_bytes,
  pinned: row.pinned !== 0,
  state: toSnapshotPhase(row.state),
  stateSince: row.state_since,
});

// An unknown word keeps everything: nothing is ever collected by mistake.
const toPhase = (text: string): SubscriptionPhase => SUBSCRIPTION_STATES.find((state) => state === text) ?? 'live';
const toSnapshotPhase = (text: string): SnapshotPhase => SNAPSHOT_STATES.find((state) => state === text) ?? 'kept';
const toReason = (text: string): SnapshotReason => SNAPSHOT_REASONS.find((reason) => reason === text) ?? 'request';
