/**
 * The part of `check` for persons' data: every subscription and its files, every manifest with its device's signature
 * and its parent, every object chunk by chunk, every map down to its leaves, and whether the catalogue agrees. What it
 * cannot look into, because the person has the key, it takes by its payload digest.
 */
import {
  CollectiveError,
  countValidSignatures,
  type Digest,
  hasCode,
  openDeviceCertificate,
  openEnvelope,
  PAYLOAD_TYPES,
  type SnapshotManifest,
} from '@collective/shared';
import { type Account, type Catalogue } from '../catalogue/catalogue.js';
import { snapshotDataName, type SubscriptionName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { checkDisk, isSameShape, type PublicBlocks, requireBesideMaps } from './check-snapshot-chunks.js';
import { readKeys } from './keys-record.js';
import { type MapStore } from './map-store.js';
import { readLocked } from './reset-account.js';
import {
  nameOf,
  readSnapshotFile,
  readSnapshotState,
  type SnapshotFile,
  storedSnapshotNumbers,
} from './snapshot-file.js';
import { SnapshotObjectFile } from './snapshot-object-file.js';
import { SnapshotObjects } from './snapshot-objects.js';
import { pageReader } from './snapshot-pages.js';
import { readSubscriptionFile, storedSubscriptions } from './subscription-file.js';
import { namedChunks, type NamedChunk } from './version-chunks.js';

export type SnapshotCheckParts = {
  readonly blobStore: BlobStore;
  readonly catalogue: Catalogue;
  readonly maps: MapStore;
};
export type SnapshotProblem = (kind: 'subscription' | 'snapshot' | 'object', name: string, message: string) => void;

export type SnapshotTotals = { readonly subscriptions: number; readonly snapshots: number };

/** Adds the public chunks that snapshots name to `named`. */
export const checkSnapshots = async (
  parts: SnapshotCheckParts,
  found: { readonly named: Map<Digest, NamedChunk>; readonly report: SnapshotProblem },
): Promise<SnapshotTotals> => {
  let [subscriptions, snapshots] = [0, 0];
  for (const of of await storedSubscriptions(parts.blobStore)) {
    const name = `users/${of.account}/${of.subscription}`;
    const attempt = attemptWith(found.report);
    // Without its file it is what a crash left while it was being made.
    const file = await attempt('subscription', `${name}/subscription`, () => readSubscriptionFile(parts.blobStore, of));
    if (file === undefined) continue;
    subscriptions += 1;
    if ((await parts.catalogue.subscriptions.subscription(of)) === undefined)
      found.report('subscription', name, 'is not in the catalogue (a start of the server puts it there)');
    snapshots += await checkSubscription(parts, of, found);
  }
  return { subscriptions, snapshots };
};

type Found = Parameters<typeof checkSnapshots>[1];
type Attempt = <T>(
  kind: Parameters<SnapshotProblem>[0],
  name: string,
  work: () => Promise<T>,
) => Promise<T | undefined>;

const attemptWith =
  (report: SnapshotProblem): Attempt =>
  async (kind, name, work) => {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof CollectiveError)) throw error;
      report(kind, name, error.message);
      return undefined;
    }
  };

const checkSubscription = async (parts: SnapshotCheckParts, of: SubscriptionName, found: Found): Promise<number> => {
  const { blobStore, catalogue } = parts;
  const attempt = attemptWith(found.report);
  const before = new Map<number, SnapshotFile>();
  const checkedObjects = new Set<number>();
  const rows = new Set(await catalogue.subscriptions.snapshotNumbers(of));
  let newest: SnapshotFile | undefined;
  let known: SnapshotManifest | undefined;
  for (const number of await storedSnapshotNumbers(blobStore, of)) {
    const name = nameOf({ ...of, number });
    const file = await attempt('snapshot', `${name}/manifest`, () => readSnapshotFile(blobStore, of, number));
    rows.delete(number);
    if (file === undefined) continue;
    before.set(number, file);
    await attempt('snapshot', `${name}/manifest`, async () =>
      checkManifest(parts, of, { number, file, newest, before }),
    );
    newest = file;
    if ((await readSnapshotState(blobStore, of, number)).state === 'forgotten') continue;
    for (const object of file.manifest.objects) {
      if (checkedObjects.has(object)) continue;
      checkedObjects.add(object);
      await attempt('object', snapshotDataName(of, object), () => checkObject(parts, of, object));
    }
    const isWhole = await attempt('snapshot', name, async () => {
      await checkMaps(parts, of, { manifest: file.manifest, known, named: found.named });
      return true;
    });
    if (isWhole === true) known = file.manifest;
  }
  for (const number of rows) found.report('snapshot', `${nameOf({ ...of, number })}/manifest`, 'is missing');
  return before.size;
};

const checkManifest = async (
  { blobStore, catalogue }: SnapshotCheckParts,
  of: SubscriptionName,
  found: {
    readonly number: number;
    readonly file: SnapshotFile;
    readonly newest: SnapshotFile | undefined;
    readonly before: ReadonlyMap<number, SnapshotFile>;
  },
): Promise<void> => {
  const { manifest, digest, bytes } = found.file;
  if (manifest.subscription !== of.subscription || manifest.number !== found.number)
    throw wrong(`says that it is ${manifest.subscription}/${manifest.number}`);
  const row = await catalogue.subscriptions.snapshot(of, found.number);
  if (row === undefined) throw wrong('is not in the catalogue (a start of the server puts it there)');
  if (row.manifest !== digest) throw wrong(`has the digest ${digest}, the catalogue says ${row.manifest}`);
  const { parent } = manifest;
  const follows = found.newest;
  if (parent?.manifest !== follows?.digest || parent?.number !== follows?.manifest.number)
    throw wrong(`follows ${parent?.number ?? 'nothing'}, but the one before is ${follows?.manifest.number ?? 'none'}`);
  const device = await catalogue.people.device(manifest.device);
  const account = await catalogue.people.account(of.account);
  if (device === undefined || account === undefined) throw wrong('is of a device that the catalogue does not know');
  await requireCertificate(blobStore, account, device.certificate);
  const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.snapshot });
  if (countValidSignatures(envelope, [device.publicKey]).length === 0) throw wrong('is not signed by its device');
};

/** By the person's identity, or one of before a reset. Errors: `untrusted`, and those of the formats. */
const requireCertificate = async (blobStore: BlobStore, account: Account, certificate: Uint8Array): Promise<void> => {
  for (const { keys } of await readLocked(blobStore, account)) {
    try {
      openDeviceCertificate(certificate, keys.identityKey);
      return;
    } catch (error) {
      if (!hasCode(error, 'untrusted')) throw error;
    }
  }
  openDeviceCertificate(certificate, (await readKeys(blobStore, account)).keys.identityKey);
};

const checkObject = async ({ blobStore }: SnapshotCheckParts, of: SubscriptionName, number: number): Promise<void> => {
  const object = await SnapshotObjectFile.open(blobStore, snapshotDataName(of, number), {
    recordsMax: Number.MAX_SAFE_INTEGER,
  });
  if (object === undefined) throw wrong('is missing, and a snapshot lists it');
  try {
    await object.verify();
  } finally {
    await object.close();
  }
};

/** As a commit does: what an older snapshot has at the same place was looked at, when all its objects are listed. */
const checkMaps = async (
  parts: SnapshotCheckParts,
  of: SubscriptionName,
  found: {
    readonly manifest: SnapshotManifest;
    readonly known: SnapshotManifest | undefined;
    readonly named: Map<Digest, NamedChunk>;
  },
): Promise<void> => {
  const { manifest } = found;
  const listed = new Set(manifest.objects);
  const known = found.known?.objects.every((number) => listed.has(number)) === true ? found.known : undefined;
  const objects = new SnapshotObjects(parts.blobStore, of, { recordsMax: Number.MAX_SAFE_INTEGER });
  const publicBlocks: PublicBlocks = new Map();
  const onPublic = (digest: Digest): void => void publicBlocks.set(digest, undefined);
  const read = pageReader(parts.blobStore, { objects, numbers: manifest.objects, onPublic });
  try {
    for (const disk of manifest.disks) {
      const older = known?.disks.find((other) => isSameShape(other, disk));
      const how = { older, read, objects, numbers: manifest.objects, publicBlocks };
      if (disk.root !== null) await checkDisk({ ...disk, root: disk.root }, how);
      if (disk.base === null || disk.base === older?.base) continue;
      if (disk.kind === 'memory')
        await checkDisk({ ...disk, root: disk.base, base: null }, { ...how, older: undefined });
      else
        for (const [digest, chunk] of await namedChunks({ disks: [{ ...disk, root: disk.base }] }, parts.maps))
          found.named.set(digest, chunk);
    }
    await requireBesideMaps(manifest, known, objects);
    for (const [digest, blockBytes] of publicBlocks)
      found.named.set(digest, { digest, blockBytes, disk: nameOf({ ...of, number: manifest.number }) });
  } finally {
    await objects.close();
  }
};

const wrong = (message: string): CollectiveError => new CollectiveError('malformed', message);
