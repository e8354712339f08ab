/**
 * What happens to snapshots after their commit: retention marks them deleted, the person pins, unpins and brings back. The
 * state file is written ahead of the row, and read ahead of any change: it is the truth. Everything here happens under the
 * lock.
 */
import { CollectiveError } from '@collective/shared';
import { type SnapshotMark, type SnapshotRecord } from '../catalogue/subscriptions.js';
import { type SubscriptionName } from '../storage/blob-names.js';
import { type Repository } from './repository.js';
import { retentionPlan } from './retention.js';
import { readSnapshotState, writeSnapshotState } from './snapshot-file.js';
import { anySubscription } from './subscriptions.js';

/** A commit waits for so many at most; the rest is the next one's, or the collector's. */
const THINNED_AT_ONCE = 64;

/**
 * Numbers of the snapshots that disks of the person's devices are based on. They stay: a device that has been away for months, with work
 * that nobody else has, reads from them what it does not have. Of a revoked device none stays.
 */
export const basesOfDevices = async ({ catalogue }: Repository, of: SubscriptionName): Promise<Set<number>> => {
  const bases = await catalogue.subscriptions.deviceBases(of);
  const devices = new Map((await catalogue.people.devicesOf(of.account)).map((device) => [device.id, device]));
  return new Set(
    bases.filter(({ device }) => devices.get(device)?.revokedAt === undefined).map(({ number }) => number),
  );
};

/**
 * Marks what retention does not keep, by the setting of this moment: a change counts from the next commit on. Returns how
 * many. Errors: `malformed` for a setting that cannot be read; then nothing is marked.
 */
export const thinSubscription = async (repository: Repository, of: SubscriptionName): Promise<number> => {
  const { catalogue, clock, limits } = repository;
  const retention = (await repository.readRetention?.())?.plan ?? limits.retention;
  return catalogue.exclusively(async () => {
    const record = await catalogue.subscriptions.subscription(of);
    if (record?.state !== 'live') return 0;
    const snapshots = await catalogue.subscriptions.retainedSnapshots(of);
    const now = clock.nowSeconds();
    const kept = retentionPlan(snapshots, now, retention);
    const bases = await basesOfDevices(repository, of);
    const doomed = snapshots.filter(({ number }) => !kept.has(number) && !bases.has(number)).slice(0, THINNED_AT_ONCE);
    let thinned = 0;
    for (const { number } of doomed) {
      const snapshot = await catalogue.subscriptions.snapshot(of, number);
      if (snapshot === undefined) continue;
      const mark = await changeSnapshot(repository, snapshot, (found) =>
        found.pinned || found.state !== 'kept' ? found : { ...found, state: 'deleted', stateSince: now },
      );
      if (mark.state === 'deleted') thinned += 1;
    }
    return thinned;
  });
};

/** Errors: `not-found`. Doing it twice is no error. */
export const pinSnapshot = async (
  repository: Repository,
  of: SubscriptionName,
  number: number,
  pinned: boolean,
): Promise<void> =>
  repository.catalogue.exclusively(async () => {
    const record = await ownSnapshot(repository, of, number);
    if (record.state !== 'kept') throw new CollectiveError('not-found', `Snapshot ${number} has been deleted`);
    await changeSnapshot(repository, record, (found) => ({ ...found, pinned }));
  });

/** Brings back what was deleted, pinned: the next commit would thin it again. Errors: `not-found` when it is gone. */
export const restoreSnapshot = async (repository: Repository, of: SubscriptionName, number: number): Promise<void> =>
  repository.catalogue.exclusively(async () => {
    const record = await ownSnapshot(repository, of, number);
    if (record.state === 'kept') return;
    await changeSnapshot(repository, record, () => ({ state: 'kept', stateSince: 0, pinned: true }));
  });

/** One of a subscription that is there; kept or deleted. Errors: `not-found`. */
export const ownSnapshot = async (
  repository: Repository,
  of: SubscriptionName,
  number: number,
): Promise<SnapshotRecord> => {
  await anySubscription(repository, of);
  const record = await repository.catalogue.subscriptions.snapshot(of, number);
  if (record === undefined || record.state === 'pending' || record.state === 'forgotten')
    throw new CollectiveError('not-found', `There is no snapshot ${number}`);
  return record;
};

/** Under the lock: from what the state file says to what `change` makes of it. Returns what it is then. */
export const changeSnapshot = async (
  { blobStore, catalogue }: Repository,
  record: SnapshotRecord,
  change: (found: SnapshotMark) => SnapshotMark,
): Promise<SnapshotMark> => {
  const { committedAt = record.committedAt, ...found } = await readSnapshotState(blobStore, record, record.number);
  const mark = change(found);
  const isNew = mark.state !== found.state || mark.pinned !== found.pinned || mark.stateSince !== found.stateSince;
  if (isNew) await writeSnapshotState(blobStore, record, record.number, { ...mark, committedAt });
  await catalogue.subscriptions.setSnapshotState(record, record.number, mark);
  return mark;
};
