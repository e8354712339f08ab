/**
 * The collector's part for persons' data: retention for those who commit no more, forgetting what has been deleted for the
 * grace time, then objects that no kept snapshot lists, and those of which most is not named any more. Of each subscription
 * the snapshots are walked without the lock; under it those that came meanwhile are added, before anything goes.
 */
import { CollectiveError } from '@collective/shared';
import { type SnapshotRecord, type SubscriptionRecord } from '../catalogue/subscriptions.js';
import { snapshotDataName, type SubscriptionName, uploadName, UPLOADS_FOLDER, isId } from '../storage/blob-names.js';
import { settlePending } from './heal-subscriptions.js';
import { placeRewritten, rewriteObject } from './rewrite-object.js';
import { type Repository } from './repository.js';
import { PublicNames, SnapshotWalk } from './snapshot-walk.js';
import { writeSubscriptionState } from './subscription-file.js';
import { basesOfDevices, changeSnapshot, thinSubscription } from './thin-snapshots.js';

export type SnapshotCollection = {
  readonly snapshotsThinned: number;
  readonly snapshotsForgotten: number;
  readonly objectsDeleted: number;
  readonly objectsRewritten: number;
  readonly objectBytesDeleted: number;
};

const FORGOTTEN_AT_ONCE = 64;

/** Ends what has expired: sessions, and files of uploads that no session has. */
export const endUploads = async ({ catalogue, blobStore, clock }: Repository): Promise<void> => {
  await catalogue.subscriptions.removeEndedSnapshotUploads(clock.nowSeconds());
  for (const name of (await blobStore.list(UPLOADS_FOLDER)).filter(isId)) {
    // Under the lock: a commit gives such a file its name under it.
    await catalogue.exclusively(async () => {
      if (!(await catalogue.subscriptions.snapshotUploadIds()).has(name)) await blobStore.remove(uploadName(name));
    });
  }
};

/** Thins and forgets. Errors: those of files that cannot be written; then the rest is left for another time. */
export const forgetSnapshots = async (
  repository: Repository,
  graceSeconds: number,
): Promise<Pick<SnapshotCollection, 'snapshotsThinned' | 'snapshotsForgotten'>> => {
  let [snapshotsThinned, snapshotsForgotten] = [0, 0];
  for (const of of await repository.catalogue.subscriptions.subscriptions()) {
    const record = await forgetSubscription(repository, of, graceSeconds);
    if (record === undefined) continue;
    let thinned = 0;
    do {
      thinned = await thinSubscription(repository, of);
      snapshotsThinned += thinned;
    } while (thinned > 0);
    snapshotsForgotten += await forgetDeleted(repository, record, graceSeconds);
  }
  return { snapshotsThinned, snapshotsForgotten };
};

/** What kept snapshots name, and the rows that are counted in. */
export type WalkedSnapshots = {
  readonly names: PublicNames;
  readonly totals: Omit<SnapshotCollection, 'snapshotsThinned' | 'snapshotsForgotten'>;
  sequence: number;
};

/**
 * Walks everything and deletes and rewrites objects. Errors: the first thing that cannot be read, after the subscriptions
 * that are whole have been done: what it names of the public chunks is not known.
 */
export const collectObjects = async (repository: Repository): Promise<WalkedSnapshots> => {
  const { subscriptions } = repository.catalogue;
  const names = new PublicNames();
  const sequence = await subscriptions.snapshotSequence();
  const totals = { objectsDeleted: 0, objectsRewritten: 0, objectBytesDeleted: 0 };
  let damage: CollectiveError | undefined;
  for (const of of await subscriptions.subscriptions()) {
    try {
      const walk = new SnapshotWalk(repository, of, names);
      await walk.add(await keptOf(repository, of));
      const gone = await deleteObjects(repository, of, walk);
      const rewritten = await rewriteObjects(repository, of, walk);
      totals.objectsDeleted += gone.count;
      totals.objectsRewritten += rewritten.count;
      totals.objectBytesDeleted += gone.bytes + rewritten.bytes;
    } catch (error) {
      if (!(error instanceof CollectiveError)) throw error;
      damage ??= error;
    }
  }
  if (damage !== undefined) throw damage;
  return { names, totals, sequence };
};

/** Under the lock: adds the snapshots that have been committed since. */
export const addNewSnapshots = async (repository: Repository, walked: WalkedSnapshots): Promise<void> => {
  const { subscriptions } = repository.catalogue;
  await settlePending(repository);
  const sequence = await subscriptions.snapshotSequence();
  for (const record of await subscriptions.snapshotsSince(walked.sequence))
    await new SnapshotWalk(repository, record, walked.names).add([record]);
  walked.sequence = sequence;
};

const keptOf = ({ catalogue }: Repository, of: SubscriptionName): Promise<SnapshotRecord[]> =>
  catalogue.subscriptions.snapshots(of, ['kept', 'deleted']);

/** Undefined when it is not there. A subscription goes with all its snapshots, pinned ones and the head included. */
const forgetSubscription = async (
  repository: Repository,
  of: SubscriptionName,
  graceSeconds: number,
): Promise<SubscriptionRecord | undefined> => {
  const { catalogue, blobStore, clock } = repository;
  return catalogue.exclusively(async () => {
    const record = await catalogue.subscriptions.subscription(of);
    const now = clock.nowSeconds();
    if (record?.state !== 'deleted' || record.stateSince + graceSeconds > now) return record;
    await writeSubscriptionState(blobStore, of, { state: 'forgotten', since: now });
    await catalogue.subscriptions.setSubscriptionState(of, 'forgotten', now);
    return { ...record, state: 'forgotten' };
  });
};

const forgetDeleted = async (
  repository: Repository,
  { account, subscription, state }: SubscriptionRecord,
  graceSeconds: number,
): Promise<number> => {
  const { catalogue, clock } = repository;
  const of = { account, subscription };
  const isAll = state === 'forgotten';
  let forgotten = 0;
  for (;;) {
    const inBatch = await catalogue.exclusively(async () => {
      const now = clock.nowSeconds();
      const bases = await basesOfDevices(repository, of);
      const isOver = (record: SnapshotRecord): boolean =>
        isAll || (record.state === 'deleted' && record.stateSince + graceSeconds <= now && !bases.has(record.number));
      const over = (await keptOf(repository, of)).filter(isOver).slice(0, FORGOTTEN_AT_ONCE);
      for (const record of over) {
        // The file may know that it has been brought back since a catalogue was saved.
        await changeSnapshot(repository, record, (found) =>
          isAll || isOver({ ...record, ...found }) ? { ...found, state: 'forgotten', stateSince: now } : found,
        );
      }
      return over.length;
    });
    forgotten += inBatch;
    if (inBatch < FORGOTTEN_AT_ONCE) return forgotten;
  }
};

type Freed = { readonly count: number; readonly bytes: number };

/** Objects of forgotten snapshots that no kept one lists. A row whose object is gone says so by its bytes. */
const deleteObjects = async (repository: Repository, of: SubscriptionName, walk: SnapshotWalk): Promise<Freed> => {
  const { catalogue, blobStore } = repository;
  return catalogue.exclusively(async () => {
    await settlePending(repository, of);
    await walk.add(await keptOf(repository, of));
    const forgotten = await catalogue.subscriptions.snapshots(of, ['forgotten']);
    const doomed = forgotten.filter(({ number, addedBytes }) => addedBytes > 0 && !walk.objects.has(number));
    if (doomed.length > 0) await catalogue.versions.beginCollection();
    let bytes = 0;
    for (const record of doomed) {
      await blobStore.remove(snapshotDataName(record, record.number));
      // Else it comes back after a power cut, and the row says that it is gone.
      await blobStore.settle(snapshotDataName(record, record.number));
      await catalogue.subscriptions.recordSnapshot({ ...record, addedBytes: 0 });
      bytes += record.addedBytes;
    }
    return { count: doomed.length, bytes };
  });
};

const rewriteObjects = async (repository: Repository, of: SubscriptionName, walk: SnapshotWalk): Promise<Freed> => {
  const { catalogue } = repository;
  let [count, bytes] = [0, 0];
  for (const number of [...walk.objects]) {
    const record = await catalogue.subscriptions.snapshot(of, number);
    const made = record === undefined ? undefined : await rewriteObject(repository, record, walk.chunks);
    if (record === undefined || made === undefined) continue;
    const isPlaced = await catalogue.exclusively(async () => {
      await settlePending(repository, of);
      await walk.add(await keptOf(repository, of));
      return placeRewritten(repository, record, made, walk.chunks);
    });
    if (!isPlaced) continue;
    count += 1;
    bytes += made.oldBytes - made.newBytes;
  }
  return { count, bytes };
};
