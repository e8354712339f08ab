/**
 * Uploads of snapshot objects: a session in the catalogue and a file that grows by parts. What counts as received is
 * what the session says, and it says so after the bytes are durable; whatever lies behind that in the file, from a part
 * that was cut off, is written over. Within a process the parts of one upload come one after the other.
 */
import { randomBytes } from 'node:crypto';
import { CollectiveError, type Digest, type SnapshotUploadState } from '@collective/shared';
import { type Caller } from '../caller.js';
import { endedUpload } from '../catalogue/catalogue.js';
import { type SnapshotRecord, type SnapshotUpload } from '../catalogue/subscriptions.js';
import { type SubscriptionName, uploadName } from '../storage/blob-names.js';
import { callerDevice, requireLease } from './leases.js';
import { type Repository } from './repository.js';
import { liveSubscription } from './subscriptions.js';
import { sessionEnd } from './upload-session.js';

export type SnapshotParent = { readonly number: number; readonly manifest: Digest };
export type NewSnapshot = {
  readonly number: number;
  readonly parent: SnapshotParent | null;
  readonly lease: number;
};

/**
 * Opens a session for the snapshot that follows the head; the same asked again gives the session that is open. Errors:
 * `not-found`, `conflict` (data: the head), `lease-lost`, `lease-held`, `rate-limited`.
 */
export const openSnapshotUpload = async (
  repository: Repository,
  caller: Caller,
  subscription: string,
  wanted: NewSnapshot,
): Promise<SnapshotUpload> => {
  const { catalogue, clock, limits } = repository;
  const device = callerDevice(caller);
  const record = await liveSubscription(repository, { account: caller.account, subscription });
  await requireLease(repository, record, { lease: wanted.lease, device });
  requireNext(wanted, await catalogue.subscriptions.head(record));
  const now = clock.nowSeconds();
  const open = (await catalogue.subscriptions.openSnapshotUploads(caller.account)).filter(
    ({ expiresAt }) => expiresAt > now,
  );
  const known = open.find(
    (upload) =>
      upload.subscription === subscription &&
      upload.device === device &&
      upload.number === wanted.number &&
      upload.parent?.manifest === wanted.parent?.manifest,
  );
  if (known !== undefined) return known;
  if (open.length >= limits.openUploadsPerAccountMax)
    throw new CollectiveError('rate-limited', `${caller.account} has ${open.length} open uploads; end one first`);
  const upload: SnapshotUpload = {
    account: caller.account,
    subscription,
    id: randomBytes(16).toString('hex'),
    device,
    number: wanted.number,
    parent: wanted.parent ?? undefined,
    createdAt: now,
    expiresAt: sessionEnd({ createdAt: now }, now, limits),
    receivedBytes: 0,
    committed: undefined,
  };
  await catalogue.subscriptions.addSnapshotUpload(upload);
  return upload;
};

/** Errors: `conflict` (data: the head) when the snapshot does not follow it. */
export const requireNext = (
  { number, parent }: { readonly number: number; readonly parent: SnapshotParent | null },
  head: SnapshotRecord | undefined,
): void => {
  const isNext =
    head === undefined
      ? parent === null
      : parent?.number === head.number && parent.manifest === head.manifest && number > head.number;
  if (isNext) return;
  const follows = parent === null ? 'nothing' : `snapshot ${parent.number}`;
  const found = head === undefined ? 'there is no snapshot yet' : `the newest is snapshot ${head.number}`;
  throw new CollectiveError('conflict', `snapshot ${number} would follow ${follows}, but ${found}`, {
    data: head === undefined ? {} : { number: head.number, manifest: head.manifest },
  });
};

/** The caller's session, ended or not. Errors: `not-found` also for somebody else's. */
export const ownSnapshotUpload = async (
  { catalogue, clock }: Repository,
  of: SubscriptionName,
  id: string,
): Promise<SnapshotUpload> => {
  const upload = await catalogue.subscriptions.snapshotUpload(id);
  if (upload?.account !== of.account || upload.subscription !== of.subscription) throw endedUpload();
  if (upload.committed === undefined && upload.expiresAt <= clock.nowSeconds()) throw endedUpload();
  return upload;
};

/**
 * Puts a part behind what has been received; it is durable when this resolves. Errors: `wrong-offset` (data:
 * receivedBytes), `not-found`, `conflict` after the commit, `too-large`, `disk-full`.
 */
export const uploadPart = async (
  repository: Repository,
  of: SubscriptionName,
  part: { readonly upload: string; readonly byteOffset: number; readonly bytes: Uint8Array },
): Promise<number> =>
  repository.snapshotUploads.take(part.upload, async () => {
    const { catalogue, blobStore, clock, limits } = repository;
    const upload = await ownSnapshotUpload(repository, of, part.upload);
    if (upload.committed !== undefined)
      throw new CollectiveError('conflict', `This upload has become snapshot ${upload.number}`);
    if (part.byteOffset !== upload.receivedBytes) throw wrongOffset(part.byteOffset, upload.receivedBytes);
    const to = upload.receivedBytes + part.bytes.length;
    if (to > limits.uploadBytesMax)
      throw new CollectiveError('too-large', `An upload may have ${limits.uploadBytesMax} bytes at most`);
    await blobStore.writePart(uploadName(upload.id), part.bytes, part.byteOffset);
    const expiresAt = sessionEnd(upload, clock.nowSeconds(), limits);
    const isReceived = await catalogue.subscriptions.setReceivedBytes(upload.id, {
      from: upload.receivedBytes,
      to,
      expiresAt,
    });
    if (!isReceived) throw endedUpload();
    return to;
  });

/** Ends the session; what it had received is given up. After the commit only the session goes. */
export const abandonSnapshotUpload = async (repository: Repository, of: SubscriptionName, id: string): Promise<void> =>
  repository.snapshotUploads.take(id, async () => {
    await ownSnapshotUpload(repository, of, id);
    await repository.catalogue.subscriptions.removeSnapshotUpload(id);
    await repository.blobStore.remove(uploadName(id));
  });

export const uploadStateOf = (upload: SnapshotUpload): SnapshotUploadState => ({
  upload: upload.id,
  number: upload.number,
  parent: upload.parent ?? null,
  receivedBytes: upload.receivedBytes,
  expiresAt: upload.expiresAt,
});

const wrongOffset = (byteOffset: number, receivedBytes: number): CollectiveError =>
  new CollectiveError('wrong-offset', `The part begins at ${byteOffset}; the upload has ${receivedBytes} bytes`, {
    data: { receivedBytes },
  });
