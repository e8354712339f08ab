/**
 * Is everything there that a snapshot names? Pages and private chunks in the objects that it lists, public ones in a
 * version that the person may read or in the parent. The walk leaves out what is the same at the same place in the parent,
 * or in the snapshot that an undo goes back to: that was checked when it was committed. This holds only while every object
 * of it is listed; else everything is looked at.
 */
import {
  CollectiveError,
  DIGEST_BYTES,
  type Digest,
  digestFromBytes,
  MAP_KIND,
  type MapColumns,
  type SnapshotDisk,
  type SnapshotManifest,
} from '@collective/shared';
import { type SnapshotRecord } from '../catalogue/subscriptions.js';
import { type BlobName } from '../storage/blob-names.js';
import { checkUserBase } from './check-snapshot-base.js';
import { type Repository } from './repository.js';
import { requireSnapshotFile } from './snapshot-file.js';
import { SnapshotObjects } from './snapshot-objects.js';
import { type PageReader, pageReader, walkMap } from './snapshot-pages.js';

const PLAIN_STATE_BYTES_MAX = 1_048_576;

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
  const { blobStore, limits } = repository;
  const parent = head === undefined ? undefined : (await requireSnapshotFile(blobStore, head)).manifest;
  const known = await knownBefore(repository, snapshot, parent);
  const own = snapshot.object === undefined ? undefined : { number: manifest.number, name: snapshot.object };
  const objects = new SnapshotObjects(blobStore, record, { recordsMax: limits.snapshotRecordsMax, own });
  try {
    for (const number of manifest.objects) if (known?.objects.includes(number) !== true) await objects.object(number);
    const publicBlocks: PublicBlocks = new Map();
    const read = pageReader(blobStore, {
      objects,
      numbers: manifest.objects,
      onPublic: (digest) => void publicBlocks.set(digest, undefined),
    });
    for (const disk of manifest.disks) {
      repository.maps.checkShape(disk);
      const older = known?.disks.find((other) => isSameShape(other, disk));
      const parts = { older, read, objects, numbers: manifest.objects, publicBlocks };
      if (disk.kind === 'user') await checkUserBase(repository, { ...snapshot, parent }, disk);
      else if (disk.base !== null && disk.base !== older?.base)
        // An earlier memory image: all of it is in the objects, and it has no base of its own.
        await checkDisk({ ...disk, root: disk.base, base: null }, { ...parts, older: undefined });
      if (disk.root !== null) await checkDisk({ ...disk, root: disk.root }, parts);
    }
    for (const digest of manifest.memory?.deviceState ?? [])
      await requirePrivate(digest, { objects, numbers: manifest.objects, what: 'the device state' });
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

export type DiskParts = {
  readonly older: SnapshotDisk | undefined;
  readonly read: PageReader;
  readonly objects: SnapshotObjects;
  readonly numbers: readonly number[];
  readonly publicBlocks: PublicBlocks;
};

/** Leaves of the disk that the older one does not have at the same place: their private chunks are there. */
export const checkDisk = async (disk: SnapshotDisk & { readonly root: Digest }, parts: DiskParts): Promise<void> => {
  await walkMap(
    { ...disk, inheritAllowed: disk.base !== null },
    {
      read: parts.read,
      older: parts.older?.root ?? undefined,
      leaf: async ({ columns, older }) => {
        for (const [index, kind] of columns.kinds.entries()) {
          if (kind < MAP_KIND.public || isSameEntry(columns, older, index)) continue;
          const digest = digestFromBytes(columns.digests.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES));
          if (kind === MAP_KIND.public) parts.publicBlocks.set(digest, disk.blockBytes);
          else await requirePrivate(digest, { ...parts, what: `disk ${disk.name}`, plainBytes: disk.blockBytes });
        }
      },
    },
  );
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

/** Errors: `block-missing`, `bad-request` for another length or one that is not encrypted. */
export const requirePrivate = async (
  digest: Digest,
  parts: {
    readonly objects: SnapshotObjects;
    readonly numbers: readonly number[];
    readonly what: string;
    /** Exactly; of the device state any length up to 1 MiB. */
    readonly plainBytes?: number;
  },
): Promise<void> => {
  const found = await parts.objects.find(digest, parts.numbers);
  if (found === undefined)
    throw new CollectiveError('block-missing', `${parts.what}: ${digest} is in none of the objects`, {
      data: { digest },
    });
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
  { blobStore, limits }: Repository,
  of: { readonly account: string; readonly subscription: string },
  manifest: SnapshotManifest,
): Promise<PublicBlocks> => {
  const publicBlocks: PublicBlocks = new Map();
  const objects = new SnapshotObjects(blobStore, of, { recordsMax: limits.snapshotRecordsMax });
  const onPublic = (digest: Digest): void => void publicBlocks.set(digest, undefined);
  const read = pageReader(blobStore, { objects, numbers: manifest.objects, onPublic });
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

const wrong = (message: string): CollectiveError => new CollectiveError('bad-request', message);
