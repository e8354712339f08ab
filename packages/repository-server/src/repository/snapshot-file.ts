/**
 * The files of snapshots in the blob store: `manifest`, the commit; `data`, what the snapshot added; and `state`, one
 * line that is written ahead of the manifest: `committed SECONDS`, then `pinned` if it is, then `deleted SECONDS` or
 * `forgotten SECONDS`, all by the server's clock.
 */
import {
  CollectiveError,
  decodeSnapshotManifest,
  type Digest,
  openEnvelope,
  PAYLOAD_TYPES,
  type SnapshotManifest,
} from '@collective/shared';
import { type SnapshotMark } from '../catalogue/subscriptions.js';
import {
  snapshotManifestName,
  snapshotStateName,
  subscriptionFolder,
  type SubscriptionName,
} from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';

export type SnapshotFile = { readonly manifest: SnapshotManifest; readonly digest: Digest; readonly bytes: Buffer };
export type SnapshotStateFile = SnapshotMark & { readonly committedAt: number | undefined };

const NUMBER = /^[1-9][0-9]{0,9}$/;
const STATE = /^committed ([0-9]{1,15})( pinned)?(?: (deleted|forgotten) ([0-9]{1,15}))?\n$/;

/** Numbers of the snapshot folders, ascending; a folder may lack its manifest. */
export const storedSnapshotNumbers = async (blobStore: BlobStore, of: SubscriptionName): Promise<number[]> =>
  (await blobStore.list(subscriptionFolder(of)))
    .filter((name) => NUMBER.test(name))
    .map(Number)
    .sort((a, b) => a - b);

/** Signatures are not checked here. Undefined when there is no manifest. Errors: those of a damaged file. */
export const readSnapshotFile = async (
  blobStore: BlobStore,
  of: SubscriptionName,
  snapshot: number,
): Promise<SnapshotFile | undefined> => {
  const bytes = await blobStore.read(snapshotManifestName(of, snapshot));
  if (bytes === undefined) return undefined;
  const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.snapshot });
  return { manifest: decodeSnapshotManifest(envelope.payload), digest: envelope.digest, bytes };
};

/** The same of one that the catalogue knows. Errors: `local-io` when it is missing or another one. */
export const requireSnapshotFile = async (
  blobStore: BlobStore,
  record: SubscriptionName & { readonly number: number; readonly manifest: Digest },
): Promise<SnapshotFile> => {
  const file = await readSnapshotFile(blobStore, record, record.number);
  if (file?.digest === record.manifest) return file;
  throw new CollectiveError(
    'local-io',
    `the manifest of ${nameOf(record)} ${file === undefined ? 'is missing' : `has the digest ${file.digest}, not ${record.manifest}`}: run check`,
  );
};

/** Missing or unreadable: kept and pinned, so that nothing of it goes. */
export const readSnapshotState = async (
  blobStore: BlobStore,
  of: SubscriptionName,
  snapshot: number,
): Promise<SnapshotStateFile> => {
  const bytes = await blobStore.read(snapshotStateName(of, snapshot));
  const found = STATE.exec(bytes?.toString('latin1') ?? '');
  if (found === null) return { committedAt: undefined, state: 'kept', stateSince: 0, pinned: true };
  const [, committedAt, pinned, state, since] = found;
  return {
    committedAt: Number(committedAt),
    state: state === 'deleted' || state === 'forgotten' ? state : 'kept',
    stateSince: Number(since ?? 0),
    pinned: pinned !== undefined,
  };
};

export const writeSnapshotState = async (
  blobStore: BlobStore,
  of: SubscriptionName,
  snapshot: number,
  file: SnapshotMark & { readonly committedAt: number },
): Promise<void> => {
  const ended = file.state === 'deleted' || file.state === 'forgotten' ? ` ${file.state} ${file.stateSince}` : '';
  const line = `committed ${file.committedAt}${file.pinned ? ' pinned' : ''}${ended}\n`;
  await blobStore.replace(snapshotStateName(of, snapshot), Buffer.from(line, 'latin1'));
};

/** For messages. */
export const nameOf = (record: SubscriptionName & { readonly number: number }): string =>
  `users/${record.account}/${record.subscription}/${record.number}`;
