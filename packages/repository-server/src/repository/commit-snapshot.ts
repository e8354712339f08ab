/**
 * The commit of a snapshot, as that of a version: everything is checked first; then, under the lock, head and lease are
 * compared and the manifest is created exclusively: from that moment the snapshot exists, whatever crashes. Ahead of it,
 * so that a crash in between is seen, a `pending` row, the object under its name and the time of the commit. The server
 * has no key: it sees that every chunk is there whole, not what is in it.
 */
import {
  CollectiveError,
  decodeSnapshotManifest,
  type Digest,
  type Envelope,
  keyId,
  openDeviceCertificate,
  openEnvelope,
  PAYLOAD_TYPES,
  requireSignatures,
  type SnapshotManifest,
} from '@collective/shared';
import { type Device, endedUpload } from '../catalogue/catalogue.js';
import { type SnapshotRecord, type SnapshotUpload, type SubscriptionRecord } from '../catalogue/subscriptions.js';
import {
  type BlobName,
  snapshotDataName,
  snapshotManifestName,
  type SubscriptionName,
  uploadName,
} from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { checkSnapshotChunks } from './check-snapshot-chunks.js';
import { settlePending } from './heal-subscriptions.js';
import { readKeys } from './keys-record.js';
import { requireLease } from './leases.js';
import { type Repository } from './repository.js';
import { nameOf, writeSnapshotState } from './snapshot-file.js';
import { SnapshotObjectFile } from './snapshot-object-file.js';
import { ownSnapshotUpload, requireNext } from './snapshot-upload.js';
import { liveSubscription } from './subscriptions.js';

export type CommittedSnapshot = { readonly number: number; readonly manifest: Digest; readonly committedAt: number };

/**
 * Makes the manifest in `bytes` the head; the same bytes again give the same answer. `readable`: the appliances that the
 * person may read; undefined: all. Errors: those of the formats, `bad-signature`, `untrusted`, `revoked`, `bad-request`,
 * `block-missing`, `lease-lost`, `lease-held`, `conflict` (data: number and manifest of the head), `not-found`. When it
 * throws, there is no new snapshot, unless the error is `internal`, `local-io` or `disk-full`: then asking again with the
 * same bytes tells.
 */
export const commitSnapshot = async (
  repository: Repository,
  of: SubscriptionName,
  readable: readonly string[] | undefined,
  commit: { readonly upload: string; readonly bytes: Uint8Array },
): Promise<CommittedSnapshot> =>
  // No part may change the object while it is looked at.
  repository.snapshotUploads.take(commit.upload, async () => {
    const { catalogue } = repository;
    const upload = await ownSnapshotUpload(repository, of, commit.upload);
    const envelope = openEnvelope(commit.bytes, { payloadType: PAYLOAD_TYPES.snapshot });
    const manifest = await verifiedManifest(repository, of, envelope);
    if (upload.committed !== undefined && upload.committed !== envelope.digest)
      throw new CollectiveError('conflict', `this upload has become snapshot ${upload.number}`);
    const again = await committedBefore(repository, upload, manifest, envelope.digest);
    if (again !== undefined) return again;

    const record = await liveSubscription(repository, of);
    checkNames(upload, manifest, record);
    await checkWriter(repository, manifest);
    // Looked at again under the lock: this only spares the work.
    await requireLease(repository, record, manifest);
    const head = await catalogue.subscriptions.head(of);
    requireNext(manifest, head);
    const object = await wholeObject(repository, upload, manifest);
    // Under the lock: a collector that is between the number and what it deletes would have counted already.
    const before = await catalogue.exclusively(() => catalogue.versions.collectionNumber());
    await checkSnapshotChunks(repository, { record, manifest, head, object, readable });
    return catalogue.exclusively(async () => {
      await settlePending(repository, of);
      const found = await committedBefore(repository, upload, manifest, envelope.digest);
      if (found !== undefined) return found;
      const now = await liveSubscription(repository, of);
      await requireLease(repository, now, manifest);
      await verifiedManifest(repository, of, envelope);
      requireNext(manifest, await catalogue.subscriptions.head(of));
      // Something has been deleted or rewritten since it was looked at.
      if ((await catalogue.versions.collectionNumber()) !== before)
        await checkSnapshotChunks(repository, { record, manifest, head, object, readable });
      return writeSnapshot(repository, upload, { manifest, envelope, bytes: commit.bytes });
    });
  });

const writeSnapshot = async (
  repository: Repository,
  upload: SnapshotUpload,
  snapshot: { readonly manifest: SnapshotManifest; readonly envelope: Envelope; readonly bytes: Uint8Array },
): Promise<CommittedSnapshot> => {
  const { catalogue, blobStore, clock } = repository;
  const { manifest, envelope, bytes } = snapshot;
  const { account, subscription, number } = upload;
  const committedAt = clock.nowSeconds();
  const record: SnapshotRecord = {
    account,
    subscription,
    number,
    manifest: envelope.digest,
    createdAt: manifest.createdAt,
    committedAt,
    reason: manifest.reason,
    addedBytes: upload.receivedBytes,
    pinned: false,
    state: 'pending',
    stateSince: 0,
  };
  // Never over a snapshot that is there and that no row knows, because it is damaged: its object would be lost.
  if ((await blobStore.read(snapshotManifestName(upload, number))) !== undefined)
    throw new CollectiveError('local-io', `${nameOf(record)} is there and cannot be read: run check`);
  await catalogue.subscriptions.recordSnapshot(record);
  const kept = { ...record, state: 'kept' } as const;
  const object = snapshotDataName(upload, number);
  if (upload.receivedBytes > 0) await blobStore.adopt(uploadName(upload.id), object);
  else if (await isThere(repository, object)) {
    // Of a commit under this number that a kill ended: nothing lists it, and no collector would look for it.
    await blobStore.remove(object);
    await blobStore.settle(object);
  }
  await writeSnapshotState(blobStore, upload, number, kept);
  if (!(await blobStore.create(snapshotManifestName(upload, number), bytes)))
    throw new CollectiveError('local-io', `${nameOf(record)} has appeared meanwhile`);
  await catalogue.subscriptions.recordSnapshot(kept);
  await catalogue.subscriptions.raiseDeviceBase(upload, manifest.device, number);
  await endUpload(repository, upload, envelope.digest);
  return { number, manifest: envelope.digest, committedAt };
};

const isThere = async ({ blobStore }: Repository, name: BlobName): Promise<boolean> => {
  const file = await blobStore.open(name);
  await file?.close();
  return file !== undefined;
};

/** The session stays for asking again; its file has another name by now. */
const endUpload = async (
  { catalogue, blobStore }: Repository,
  upload: SnapshotUpload,
  manifest: Digest,
): Promise<void> => {
  await catalogue.subscriptions.markSnapshotCommitted(upload.id, manifest);
  await blobStore.remove(uploadName(upload.id));
};

/** Was this very manifest committed before: the answer got lost, or a crash came after the manifest. */
const committedBefore = async (
  repository: Repository,
  upload: SnapshotUpload,
  { number }: SnapshotManifest,
  digest: Digest,
): Promise<CommittedSnapshot | undefined> => {
  const record = await repository.catalogue.subscriptions.snapshot(upload, number);
  if (record?.manifest !== digest || record.state === 'pending') return undefined;
  if (upload.committed === undefined && upload.number === number) await endUpload(repository, upload, digest);
  return { number, manifest: digest, committedAt: record.committedAt };
};

/** Signed by a device of the account that is not revoked and that the person's identity key has certified. */
const verifiedManifest = async (
  repository: Repository,
  { account }: SubscriptionName,
  envelope: Envelope,
): Promise<SnapshotManifest> => {
  const devices = await repository.catalogue.people.devicesOf(account);
  const device = devices.find(({ id }) => envelope.signatures.some(({ keyid }) => keyid === id));
  if (device === undefined)
    throw new CollectiveError('untrusted', 'the snapshot is signed by no device of this account');
  if (device.revokedAt !== undefined) throw new CollectiveError('revoked');
  await requireCertificate(repository, device);
  requireSignatures(envelope, [device.publicKey], { threshold: 1, what: 'snapshot manifest' });
  const manifest = decodeSnapshotManifest(envelope.payload);
  if (manifest.device !== device.id)
    throw new CollectiveError('untrusted', `the snapshot is of device ${manifest.device}, but ${device.id} signed it`);
  return manifest;
};

const requireCertificate = async (repository: Repository, device: Device): Promise<void> => {
  const account = await repository.catalogue.people.account(device.account);
  if (account === undefined) throw new CollectiveError('internal', `there is no account ${device.account}`);
  // The present identity only: after a reset the devices of before register anew.
  const { keys } = await readKeys(repository.blobStore, account);
  const certificate = openDeviceCertificate(device.certificate, keys.identityKey);
  const isRight =
    certificate.account === device.account &&
    certificate.repository === repository.identity &&
    keyId(certificate.deviceKey) === device.id;
  if (!isRight) throw new CollectiveError('untrusted', 'The certificate of the device is for something else');
};

const checkNames = (upload: SnapshotUpload, manifest: SnapshotManifest, record: SubscriptionRecord): void => {
  const { subscription, number, parent, writtenBy } = manifest;
  if (subscription !== upload.subscription || number !== upload.number)
    throw new CollectiveError(
      'bad-request',
      `the manifest is of ${subscription}/${number}, the upload of ${upload.number}`,
    );
  if (parent?.manifest !== upload.parent?.manifest || parent?.number !== upload.parent?.number)
    throw new CollectiveError('bad-request', 'the manifest names another parent than the upload');
  if (writtenBy.appliance !== record.appliance)
    throw new CollectiveError('bad-request', `the subscription is to ${record.appliance}, not ${writtenBy.appliance}`);
};

/** Whatever became of that version since: a machine that was away may have run it. */
const checkWriter = async ({ catalogue }: Repository, { writtenBy }: SnapshotManifest): Promise<void> => {
  const version = await catalogue.versions.version(writtenBy.appliance, writtenBy.version);
  if (version?.manifest !== writtenBy.manifest)
    throw new CollectiveError(
      'bad-request',
      `there is no ${writtenBy.appliance}@${writtenBy.version} with the manifest ${writtenBy.manifest}`,
    );
};

const lengthOf = async (blobStore: BlobStore, name: BlobName): Promise<number | undefined> => {
  const file = await blobStore.open(name);
  await file?.close();
  return file?.byteLength;
};

/** Every chunk of the new object is whole; where it lies. Undefined when the snapshot adds nothing. */
const wholeObject = async (
  { blobStore, limits }: Repository,
  upload: SnapshotUpload,
  manifest: SnapshotManifest,
): Promise<BlobName | undefined> => {
  const isListed = manifest.objects.at(-1) === manifest.number;
  if (isListed !== upload.receivedBytes > 0)
    throw new CollectiveError(
      'bad-request',
      `the manifest ${isListed ? 'lists' : 'does not list'} its own object, of which ${upload.receivedBytes} bytes were received`,
    );
  if (!isListed) return undefined;
  const name = uploadName(upload.id);
  const fileBytes = await lengthOf(blobStore, name);
  // The session has expired since it was looked at, and a collector has taken its file.
  if (fileBytes === undefined || fileBytes < upload.receivedBytes) throw endedUpload();
  // A part that was cut off may lie behind what has been received.
  if (fileBytes > upload.receivedBytes) await blobStore.writePart(name, Buffer.alloc(0), upload.receivedBytes);
  const object = await SnapshotObjectFile.open(blobStore, name, { recordsMax: limits.snapshotRecordsMax });
  if (object === undefined) throw endedUpload();
  try {
    await object.verify((digest, { cipher, epoch }) => {
      if (cipher !== 'none' && epoch !== manifest.epoch)
        throw new CollectiveError('bad-request', `${digest} is of epoch ${epoch}, the snapshot of ${manifest.epoch}`);
    });
  } finally {
    await object.close();
  }
  return name;
};
