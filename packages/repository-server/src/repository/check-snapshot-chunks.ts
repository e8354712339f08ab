/**
 * Is everything there that a snapshot names? Pages and private chunks in the objects that it lists, public ones in a
 * version that the person may read or in the parent. The walk leaves out what is the same at the same place in the parent,
 * or in the snapshot that an undo goes back to: that was checked when it was committed. This holds only while every object
 * of it is listed. Else every page is read, and of what the parent has at the same place it is asked only whether an object
 * that is listed holds it: for many chunks at once, so that this costs a look at each index and no byte of the data.
 */
import {
  chunksBesideMaps,
  CollectiveError,
  decodePageColumns,
  DIGEST_BYTES,
  type Digest,
  digestFromBytes,
  MAP_KIND,
  type MapColumns,
  type SnapshotDisk,
  type SnapshotManifest,
} from '@collective/shared';
import { type SnapshotRecord } from '../catalogue/subscriptions.js';
import { type BlobName, type SubscriptionName } from '../storage/blob-names.js';
import { checkUserBase } from './check-snapshot-base.js';
import { type Repository } from './repository.js';
import { requireSnapshotFile } from './snapshot-file.js';
import { SnapshotObjects } from './snapshot-objects.js';
import { type PageReader, pageReader, walkMap } from './snapshot-pages.js';

const PLAIN_STATE_BYTES_MAX = 1_048_576;
/** Digests that are looked for together; about 150 bytes each. */
const LOOKED_FOR_MAX = 131_072;

export type NewSnapshotChunks = {
  readonly record: { readonly account: string; readonly subscription: string; readonly appliance: string };
  readonly manifest: SnapshotManifest;
  readonly head: SnapshotRecord | undefined;
  /** The object that is being committed; undefined when the snapshot adds nothing. */
  readonly object: BlobName | undefined;
  /** Appliances that the person may read; undefined: all. */
  readonly readable: readonly string[] | undefined;
};

/** Of a block its exact length, of a page undefined. */
export type PublicBlocks = Map<Digest, number | undefined>;

/** Errors: `block-missing` (data: digest or object), `bad-request` for wrong lengths and bases, those of damaged pages. */
export const checkSnapshotChunks = async (repository: Repository, snapshot: NewSnapshotChunks): Promise<void> => {
  const { manifest, record, head } = snapshot;
  const { blobStore } = repository;
  const parent = head === undefined ? undefined : (await requireSnapshotFile(blobStore, head)).manifest;
  const known = await knownBefore(repository, snapshot, parent);
  const own = snapshot.object === undefined ? undefined : { number: manifest.number, name: snapshot.object };
  const objects = objectsOf(repository, record, own);
  try {
    const knownObjects = new Set(known?.objects);
    for (const number of manifest.objects) if (!knownObjects.has(number)) await objects.object(number);
    const publicBlocks: PublicBlocks = new Map();
    const read = pageReader(blobStore, {
      objects,
      numbers: manifest.objects,
      onPublic: (digest) => void publicBlocks.set(digest, undefined),
    });
    for (const disk of manifest.disks) {
      repository.maps.checkShape(disk);
      const older = known?.disks.find((other) => isSameShape(other, disk));
      const before = known === undefined ? beforeOf(repository, objects, parent, disk) : undefined;
      const parts = { older, before, read, objects, numbers: manifest.objects, publicBlocks };
      if (disk.kind === 'user') await checkUserBase(repository, { ...snapshot, parent }, disk);
      else if (disk.base !== null && disk.base !== older?.base)
        // An earlier memory image: all of it is in the objects, and it has no base of its own.
        await checkDisk({ ...disk, root: disk.base, base: null }, { ...parts, older: undefined, before: undefined });
      if (disk.root !== null) await checkDisk({ ...disk, root: disk.root }, parts);
    }
    await requireBesideMaps(manifest, known, objects);
    await requirePublic(repository, snapshot, parent, publicBlocks);
  } finally {
    await objects.close();
  }
};

/** A committed snapshot that need not be looked at again: all its objects are listed. */
const knownBefore = async (
  { catalogue, blobStore }: Repository,
  { manifest, record }: NewSnapshotChunks,
  parent: SnapshotManifest | undefined,
): Promise<SnapshotManifest | undefined> => {
  const listed = new Set(manifest.objects);
  const isListed = ({ objects }: SnapshotManifest): boolean => objects.every((number) => listed.has(number));
  if (parent !== undefined && isListed(parent)) return parent;
  if (manifest.reason !== 'undo') return undefined;
  for (const kept of (await catalogue.subscriptions.snapshots(record, ['kept'])).reverse()) {
    const file = await requireSnapshotFile(blobStore, kept);
    const isSame = manifest.disks.every((disk) =>
      file.manifest.disks.some(
        (other) => isSameShape(other, disk) && other.root === disk.root && other.base === disk.base,
      ),
    );
    if (isSame && isListed(file.manifest)) return file.manifest;
  }
  return undefined;
};

/** The disk in the parent, of which not all objects are listed. What cannot be read of it is looked at as new. */
const beforeOf = (
  { blobStore }: Repository,
  objects: SnapshotObjects,
  parent: SnapshotManifest | undefined,
  disk: SnapshotDisk,
): DiskBefore | undefined => {
  const root = parent?.disks.find((other) => isSameShape(other, disk))?.root ?? undefined;
  if (parent === undefined || root === undefined) return undefined;
  const read = pageReader(blobStore, { objects, numbers: parent.objects, onPublic: () => undefined });
  const columns = async (digest: Digest): Promise<MapColumns | undefined> => {
    try {
      return decodePageColumns(await read(digest)).columns;
    } catch (error) {
      if (error instanceof CollectiveError) return undefined;
      throw error;
    }
  };
  return { root, columns };
};

export type DiskBefore = {
  readonly root: Digest;
  /** Undefined for a page that cannot be read. */
  readonly columns: (digest: Digest) => Promise<MapColumns | undefined>;
};

export type DiskParts = {
  /** In a snapshot of which all objects are listed: what is the same there need not be looked at. */
  readonly older: SnapshotDisk | undefined;
  /** In the parent: what is the same there has the right form, and was in one of the parent's objects. */
  readonly before?: DiskBefore | undefined;
  readonly read: PageReader;
  readonly objects: SnapshotObjects;
  readonly numbers: readonly number[];
  readonly publicBlocks: PublicBlocks;
};

/** Leaves of the disk that the older one does not have at the same place: their private chunks are there. */
export const checkDisk = async (disk: SnapshotDisk & { readonly root: Digest }, parts: DiskParts): Promise<void> => {
  const { older, before, read, objects, numbers } = parts;
  const what = `disk ${disk.name}`;
  const lookedFor = new Set<Digest>();
  const lookForThem = async (): Promise<void> => {
    const digest = await objects.firstLacking(lookedFor, numbers);
    if (digest !== undefined) throw missing(what, digest);
  };
  await walkMap(
    { ...disk, inheritAllowed: disk.base !== null },
    {
      read,
      ...(older !== undefined || before === undefined
        ? { older: older?.root ?? undefined }
        : { older: before.root, olderColumns: before.columns, visitsSame: true }),
      leaf: async ({ columns, older: olderColumns }) => {
        for (const [index, kind] of columns.kinds.entries()) {
          if (kind < MAP_KIND.public) continue;
          const isSame = isSameEntry(columns, olderColumns, index);
          // Of a public one the head that names it keeps it.
          if (isSame && (older !== undefined || kind === MAP_KIND.public)) continue;
          const digest = digestFromBytes(columns.digests.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES));
          if (isSame) lookedFor.add(digest);
          else if (kind === MAP_KIND.public) parts.publicBlocks.set(digest, disk.blockBytes);
          else await requirePrivate(digest, { ...parts, what, plainBytes: disk.blockBytes });
        }
        if (lookedFor.size >= LOOKED_FOR_MAX) await lookForThem();
      },
    },
  );
  await lookForThem();
};

export const isSameShape = (a: SnapshotDisk, b: SnapshotDisk): boolean =>
  a.name === b.name && a.kind === b.kind && a.diskBytes === b.diskBytes && a.blockBytes === b.blockBytes;

const isSameEntry = (columns: MapColumns, older: MapColumns | undefined, index: number): boolean => {
  const from = index * DIGEST_BYTES;
  return (
    older !== undefined &&
    older.kinds[index] === columns.kinds[index] &&
    older.digests.compare(columns.digests, from, from + DIGEST_BYTES, from, from + DIGEST_BYTES) === 0
  );
};

/** Device state and boot traces, but those of a snapshot of which all objects are listed. Errors: as requirePrivate. */
export const requireBesideMaps = async (
  manifest: SnapshotManifest,
  known: SnapshotManifest | undefined,
  objects: SnapshotObjects,
): Promise<void> => {
  const lookedAt = new Set(known === undefined ? [] : chunksBesideMaps(known));
  for (const digest of chunksBesideMaps(manifest))
    if (!lookedAt.has(digest))
      await requirePrivate(digest, { objects, numbers: manifest.objects, what: 'device state or boot trace' });
};

/** Errors: `block-missing`, `bad-request` for another length or one that is not encrypted. */
export const requirePrivate = async (
  digest: Digest,
  parts: {
    readonly objects: SnapshotObjects;
    readonly numbers: readonly number[];
    readonly what: string;
    /** Exactly; of what no map names any length up to 1 MiB. */
    readonly plainBytes?: number;
  },
): Promise<void> => {
  const found = await parts.objects.find(digest, parts.numbers);
  if (found === undefined) throw missing(parts.what, digest);
  const { cipher, plainBytes } = await found.object.header(found.place);
  if (cipher === 'none') throw wrong(`${parts.what}: ${digest} is not encrypted`);
  if (plainBytes !== (parts.plainBytes ?? plainBytes) || plainBytes > PLAIN_STATE_BYTES_MAX)
    throw wrong(`${parts.what}: ${digest} has ${plainBytes} bytes, not ${parts.plainBytes ?? PLAIN_STATE_BYTES_MAX}`);
};

/** Public chunks live in a version that the person may read, or the head names them and so keeps them. */
const requirePublic = async (
  repository: Repository,
  { record, head, readable }: NewSnapshotChunks,
  parent: SnapshotManifest | undefined,
  wanted: PublicBlocks,
): Promise<void> => {
  if (wanted.size === 0) return;
  const live = await repository.catalogue.versions.liveChunks(wanted.keys(), readable);
  const others = new Map([...wanted].filter(([digest]) => !live.has(digest)));
  if (others.size > 0 && parent !== undefined && head !== undefined) {
    const kept = await publicBlocksOf(repository, record, parent);
    for (const [digest, blockBytes] of kept) if (others.get(digest) === blockBytes) others.delete(digest);
  }
  for (const [digest] of others)
    throw new CollectiveError('block-missing', `the public chunk ${digest} is not in the repository`, {
      data: { digest },
    });
  for (const { digest, plainBytes } of live.values()) {
    const blockBytes = wanted.get(digest);
    if (blockBytes !== undefined && blockBytes !== plainBytes)
      throw wrong(`the public block ${digest} has ${plainBytes} bytes, not ${blockBytes}`);
  }
};

/** All public chunks that a committed snapshot's own maps name, without its bases. */
const publicBlocksOf = async (
  repository: Repository,
  of: SubscriptionName,
  manifest: SnapshotManifest,
): Promise<PublicBlocks> => {
  const publicBlocks: PublicBlocks = new Map();
  const objects = objectsOf(repository, of);
  const onPublic = (digest: Digest): void => void publicBlocks.set(digest, undefined);
  const read = pageReader(repository.blobStore, { objects, numbers: manifest.objects, onPublic });
  try {
    for (const disk of manifest.disks) {
      if (disk.root === null) continue;
      await walkMap(
        { ...disk, root: disk.root, inheritAllowed: disk.base !== null },
        {
          read,
          leaf: async ({ columns }) => {
            for (const [index, kind] of columns.kinds.entries()) {
              if (kind !== MAP_KIND.public) continue;
              const at = index * DIGEST_BYTES;
              publicBlocks.set(digestFromBytes(columns.digests.subarray(at, at + DIGEST_BYTES)), disk.blockBytes);
            }
          },
        },
      );
    }
  } finally {
    await objects.close();
  }
  return publicBlocks;
};

const objectsOf = (
  { blobStore, limits, snapshotIndexes }: Repository,
  of: SubscriptionName,
  own?: { readonly number: number; readonly name: BlobName },
): SnapshotObjects =>
  new SnapshotObjects(blobStore, of, { recordsMax: limits.snapshotRecordsMax, indexes: snapshotIndexes, own });

const missing = (what: string, digest: Digest): CollectiveError =>
  new CollectiveError('block-missing', `${what}: ${digest} is in none of the objects`, { data: { digest } });

const wrong = (message: string): CollectiveError => new CollectiveError('bad-request', message);
