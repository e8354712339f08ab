/**
 * What the kept snapshots of a subscription name: which objects they list, which chunks in them, and which public chunks.
 * Equal pages are read once, so adding one more snapshot costs what is new in it. Snapshots in their grace time count.
 */
import {
  chunksBesideMaps,
  DIGEST_BYTES,
  type Digest,
  digestFromBytes,
  MAP_KIND,
  type SnapshotDisk,
} from '@collective/shared';
import { type SnapshotRecord } from '../catalogue/subscriptions.js';
import { type SubscriptionName } from '../storage/blob-names.js';
import { type MapRoot } from './map-store.js';
import { type Repository } from './repository.js';
import { requireSnapshotFile } from './snapshot-file.js';
import { SnapshotObjects } from './snapshot-objects.js';
import { pageReader, walkMap } from './snapshot-pages.js';

/** Of all subscriptions together. */
export class PublicNames {
  readonly digests = new Set<Digest>();
  readonly #bases = new Set<string>();

  /** Pages and blocks of an initial user disk. Errors: `block-missing` and those of damaged pages. */
  async addBase({ maps }: Repository, map: MapRoot & { readonly root: Digest }): Promise<void> {
    const key = `${map.root} ${map.diskBytes} ${map.blockBytes}`;
    if (this.#bases.has(key)) return;
    for (const { digest } of await maps.storedPages(map, { lowestLevel: 0 })) this.digests.add(digest);
    const { kinds, digestBytes } = await maps.load(map);
    kinds.forEach((kind, index) => {
      if (kind === MAP_KIND.public)
        this.digests.add(digestFromBytes(digestBytes.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES)));
    });
    this.#bases.add(key);
  }
}

export class SnapshotWalk {
  /** Numbers of the snapshots whose objects some kept one lists. */
  readonly objects = new Set<number>();
  /** Chunks and pages in them that some kept one names. */
  readonly chunks = new Set<Digest>();
  readonly #repository: Repository;
  readonly #of: SubscriptionName;
  readonly #names: PublicNames;
  readonly #walked = new Set<number>();

  constructor(repository: Repository, of: SubscriptionName, names: PublicNames) {
    this.#repository = repository;
    this.#of = of;
    this.#names = names;
  }

  /** Adds those that are not in yet. Errors: those of a manifest, object or page that cannot be read. */
  async add(records: readonly SnapshotRecord[]): Promise<void> {
    const { blobStore, limits, snapshotIndexes: indexes } = this.#repository;
    const objects = new SnapshotObjects(blobStore, this.#of, { recordsMax: limits.snapshotRecordsMax, indexes });
    try {
      for (const record of [...records].reverse()) {
        if (this.#walked.has(record.number) || record.state === 'forgotten') continue;
        await this.#addOne(record, objects);
        this.#walked.add(record.number);
      }
    } finally {
      await objects.close();
    }
  }

  async #addOne(record: SnapshotRecord, objects: SnapshotObjects): Promise<void> {
    const { manifest } = await requireSnapshotFile(this.#repository.blobStore, record);
    for (const number of manifest.objects) this.objects.add(number);
    for (const digest of chunksBesideMaps(manifest)) this.chunks.add(digest);
    for (const disk of manifest.disks) {
      if (disk.kind === 'user' && disk.base !== null)
        await this.#names.addBase(this.#repository, { ...disk, root: disk.base });
      // An earlier memory image lies in the objects too, and has no base of its own.
      const maps = [disk, ...(disk.kind === 'memory' ? [{ ...disk, root: disk.base, base: null }] : [])];
      for (const map of maps) await this.#addMap(map, manifest.objects, objects);
    }
  }

  async #addMap(disk: SnapshotDisk, numbers: readonly number[], objects: SnapshotObjects): Promise<void> {
    if (disk.root === null) return;
    const onPublic = (digest: Digest): void => void this.#names.digests.add(digest);
    await walkMap(
      { ...disk, root: disk.root, inheritAllowed: disk.base !== null },
      {
        read: pageReader(this.#repository.blobStore, { objects, numbers, onPublic }),
        enter: (digest) => {
          const isNew = !this.chunks.has(digest);
          this.chunks.add(digest);
          return isNew;
        },
        leaf: async ({ columns }) => {
          for (const [index, kind] of columns.kinds.entries()) {
            if (kind < MAP_KIND.public) continue;
            const at = index * DIGEST_BYTES;
            const digest = digestFromBytes(columns.digests.subarray(at, at + DIGEST_BYTES));
            (kind === MAP_KIND.public ? this.#names.digests : this.chunks).add(digest);
          }
        },
      },
    );
  }
}
