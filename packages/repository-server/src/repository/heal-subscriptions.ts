/**
 * Makes the catalogue's index of subscriptions and snapshots agree with their files, which are the truth: a snapshot
 * whose manifest was linked just before a crash is one, a folder without a manifest is nothing. A commit announces itself
 * by a `pending` row ahead of its manifest, so that the lock's next holders need not look at every folder. What is found
 * is made durable before anything is built on it. Callers hold the lock.
 */
import { CollectiveError } from '@collective/shared';
import { type Catalogue } from '../catalogue/catalogue.js';
import { type SnapshotRecord, type SubscriptionRecord } from '../catalogue/subscriptions.js';
import {
  snapshotDataName,
  snapshotManifestName,
  subscriptionFileName,
  type SubscriptionName,
} from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { nameOf, readSnapshotFile, readSnapshotState, storedSnapshotNumbers } from './snapshot-file.js';
import { readSubscriptionFile, readSubscriptionState, storedSubscriptions } from './subscription-file.js';

export type SubscriptionParts = { readonly blobStore: BlobStore; readonly catalogue: Catalogue };

/** At the start: everything. Returns what it could not heal, a sentence each; nothing that it cannot read is dropped. */
export const healSubscriptions = async (parts: SubscriptionParts): Promise<string[]> => {
  const problems: string[] = [];
  const attempt = async (name: string, work: () => Promise<unknown>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof CollectiveError)) throw error;
      problems.push(`${name}: ${error.message}`);
    }
  };
  const stored = await storedSubscriptions(parts.blobStore);
  for (const of of stored) {
    const name = `users/${of.account}/${of.subscription}`;
    await attempt(name, () => settlePending(parts, of));
    await attempt(name, async () => problems.push(...(await healSubscription(parts, of))));
  }
  const names = new Set(stored.map(({ account, subscription }) => `${account}/${subscription}`));
  for (const { account, subscription } of await parts.catalogue.subscriptions.subscriptions()) {
    if (!names.has(`${account}/${subscription}`))
      problems.push(`users/${account}/${subscription}: its folder is missing`);
  }
  return problems;
};

/**
 * What killed commits left, of one subscription or of all: a row each. Cheap when there is none. Errors: what cannot be
 * read or made durable.
 */
export const settlePending = async (parts: SubscriptionParts, of?: SubscriptionName): Promise<void> => {
  const { blobStore, catalogue } = parts;
  for (const record of await catalogue.subscriptions.pendingSnapshots()) {
    if (of !== undefined && (record.account !== of.account || record.subscription !== of.subscription)) continue;
    const file = await readSnapshotFile(blobStore, record, record.number);
    if (file === undefined) {
      await catalogue.subscriptions.removeSnapshot(record, record.number);
    } else {
      await blobStore.settle(snapshotManifestName(record, record.number));
      await catalogue.subscriptions.recordSnapshot(await recordOf(parts, record, record.number, record));
    }
  }
};

const healSubscription = async (parts: SubscriptionParts, of: SubscriptionName): Promise<string[]> => {
  const { subscriptions } = parts.catalogue;
  const isNew = await addMissing(parts, of);
  if (isNew === undefined) return [];
  const problems: string[] = [];
  const known = new Set(await subscriptions.snapshotNumbers(of));
  let added = 0;
  for (const number of await storedSnapshotNumbers(parts.blobStore, of)) {
    if (known.delete(number)) continue;
    try {
      if (await addRow(parts, of, number)) added += 1;
    } catch (error) {
      if (!(error instanceof CollectiveError)) throw error;
      problems.push(`${nameOf({ ...of, number })}: ${error.message}`);
    }
  }
  for (const number of known) problems.push(`${nameOf({ ...of, number })}: its folder is missing`);
  // Rows from before a backup: what was pinned, deleted or brought back since then is in the files.
  if (added > 0 && !isNew) await healStates(parts, of);
  return problems;
};

/** True when the row was missing; undefined when the folder is no subscription (a crash came before its file). */
const addMissing = async (parts: SubscriptionParts, of: SubscriptionName): Promise<boolean | undefined> => {
  const { blobStore, catalogue } = parts;
  if ((await catalogue.subscriptions.subscription(of)) !== undefined) return false;
  const file = await readSubscriptionFile(blobStore, of);
  if (file === undefined) return undefined;
  await blobStore.settle(subscriptionFileName(of));
  const { state, since } = await readSubscriptionState(blobStore, of);
  const record: SubscriptionRecord = {
    ...of,
    ...file,
    state,
    stateSince: since,
    leaseNumber: 0,
    lease: undefined,
  };
  await catalogue.subscriptions.addSubscription(record);
  return true;
};

const addRow = async (parts: SubscriptionParts, of: SubscriptionName, number: number): Promise<boolean> => {
  const { blobStore, catalogue } = parts;
  const file = await readSnapshotFile(blobStore, of, number);
  if (file === undefined) return false;
  await blobStore.settle(snapshotManifestName(of, number));
  await catalogue.subscriptions.recordSnapshot(await recordOf(parts, of, number, undefined));
  // Leases may be lost with the catalogue: none is given again that a snapshot was made under.
  await catalogue.subscriptions.raiseLeaseNumber(of, file.manifest.lease);
  return true;
};

/** The row of a snapshot, by its files. */
const recordOf = async (
  { blobStore }: SubscriptionParts,
  of: SubscriptionName,
  number: number,
  pending: SnapshotRecord | undefined,
): Promise<SnapshotRecord> => {
  const file = await readSnapshotFile(blobStore, of, number);
  if (file === undefined) throw new CollectiveError('local-io', `${nameOf({ ...of, number })}: its manifest went away`);
  const { committedAt, ...mark } = await readSnapshotState(blobStore, of, number);
  const object = await blobStore.open(snapshotDataName(of, number));
  try {
    return {
      account: of.account,
      subscription: of.subscription,
      number,
      manifest: file.digest,
      createdAt: file.manifest.createdAt,
      committedAt: committedAt ?? file.manifest.createdAt,
      reason: file.manifest.reason,
      addedBytes: pending?.addedBytes ?? object?.byteLength ?? 0,
      ...mark,
    };
  } finally {
    await object?.close();
  }
};

const healStates = async ({ blobStore, catalogue }: SubscriptionParts, of: SubscriptionName): Promise<void> => {
  const { state, since } = await readSubscriptionState(blobStore, of);
  await catalogue.subscriptions.setSubscriptionState(of, state, since);
  for (const { number } of await catalogue.subscriptions.snapshots(of, ['kept', 'deleted'])) {
    const { committedAt: _committedAt, ...mark } = await readSnapshotState(blobStore, of, number);
    await catalogue.subscriptions.setSnapshotState(of, number, mark);
  }
};
