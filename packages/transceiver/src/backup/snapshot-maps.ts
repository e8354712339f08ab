/**
 * The map of a disk of a snapshot: its pages level by level from the objects that the snapshot lists, a few requests each
 * level; every page is checked on its way to the root that the signed manifest names.
 */
import {
  CollectiveError,
  DiskMap,
  MAP_KIND,
  MAP_PAGE_BYTES_MAX,
  decodeChunk,
  decodePageColumns,
  mapShape,
  pageDigestAt,
  type Digest,
  type DiskShape,
} from '@collective/shared';
import type { RepositoryClient } from '../repository/repository-client.js';
import type { SnapshotObjects } from './snapshot-objects.js';

export type SnapshotMapOptions = {
  readonly disk: DiskShape & { readonly name: string; readonly root: Digest | null; readonly base: Digest | null };
  /** Those that the manifest lists. */
  readonly numbers: readonly number[];
  readonly objects: SnapshotObjects;
  /** For a page that is the publisher's. */
  readonly client: Pick<RepositoryClient, 'call'>;
  readonly signal?: AbortSignal;
};

/** Errors: `block-missing`, `digest-mismatch`, `malformed`, `too-large`, those of the network; `not-found` when an object is gone. */
export async function fetchSnapshotMap(options: SnapshotMapOptions): Promise<DiskMap> {
  const { disk } = options;
  // Ahead of everything: no memory for what a manifest only claims.
  const empty = DiskMap.empty(disk);
  if (disk.root === null) return empty;
  const pages = new Map<Digest, Buffer>();
  let wanted = new Set<Digest>([disk.root]);
  for (let level = mapShape(disk).levels - 1; level >= 0; level -= 1) {
    await fetchPages(wanted, pages, options);
    const below = new Set<Digest>();
    if (level > 0)
      for (const digest of wanted) {
        const page = pages.get(digest);
        if (page === undefined) continue;
        const { columns } = decodePageColumns(page);
        for (const [index, kind] of columns.kinds.entries())
          if (kind === MAP_KIND.public) below.add(pageDigestAt(columns, index));
      }
    wanted = new Set([...below].filter((digest) => !pages.has(digest)));
  }
  return DiskMap.fromPages({
    ...{ diskBytes: disk.diskBytes, blockBytes: disk.blockBytes },
    root: disk.root,
    pages: (digest) => pages.get(digest),
    inheritAllowed: disk.base !== null,
  });
}

async function fetchPages(
  wanted: ReadonlySet<Digest>,
  pages: Map<Digest, Buffer>,
  { objects, numbers, client, signal, disk }: SnapshotMapOptions,
): Promise<void> {
  const decoded = (digest: Digest, chunk: Buffer): Buffer =>
    decodeChunk(chunk, { digest, plainBytesMax: MAP_PAGE_BYTES_MAX });
  for await (const [digest, chunk] of objects.chunks(wanted, numbers, signal))
    pages.set(digest, decoded(digest, chunk));
  for (const digest of wanted) {
    if (pages.has(digest)) continue;
    const chunk = await client
      .call('chunk', { params: { digest }, ...(signal === undefined ? {} : { signal }) })
      .catch((cause: unknown) => {
        if (!(cause instanceof CollectiveError) || cause.code !== 'not-found') throw cause;
        throw new CollectiveError(
          'block-missing',
          `A page of the map of disk ${disk.name} is in none of its objects.`,
          {
            cause,
            data: { digest },
          },
        );
      });
    pages.set(digest, decoded(digest, chunk));
  }
}
