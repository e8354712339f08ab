/** Which chunks a version names: its map pages and its blocks. */
import {
  CollectiveError,
  DIGEST_BYTES,
  type Digest,
  digestFromBytes,
  type DiskMap,
  MAP_KIND,
} from '@collective/shared';
import { type MapRoot, type MapStore } from './map-store.js';

/** A disk of a version, or the base of a snapshot's. */
export type NamedDisk = MapRoot & { readonly name: string };

export type NamedChunk = {
  readonly digest: Digest;
  /** Of a block: the disk's block size, exactly. Of a page: undefined. */
  readonly blockBytes: number | undefined;
  readonly disk: string;
};

/**
 * Every chunk of the version once, pages before blocks for each disk. Errors: `block-missing` and those of damaged
 * pages.
 */
export const namedChunks = async (
  manifest: { readonly disks: readonly NamedDisk[] },
  maps: MapStore,
): Promise<Map<Digest, NamedChunk>> => {
  const named = new Map<Digest, NamedChunk>();
  for (const disk of manifest.disks) {
    if (disk.root === null) continue;
    const map = await maps.load(disk);
    for (const page of await maps.storedPages({ ...disk, root: disk.root }, { lowestLevel: 0 })) {
      addNamed(named, { digest: page.digest, blockBytes: undefined, disk: disk.name });
    }
    addBlocks(named, map, disk.name);
  }
  return named;
};

const addBlocks = (named: Map<Digest, NamedChunk>, map: DiskMap, disk: string): void => {
  map.kinds.forEach((kind, index) => {
    if (kind !== MAP_KIND.public) return;
    const digest = digestFromBytes(map.digestBytes.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES));
    addNamed(named, { digest, blockBytes: map.blockBytes, disk });
  });
};

const addNamed = (named: Map<Digest, NamedChunk>, chunk: NamedChunk): void => {
  const known = named.get(chunk.digest);
  if (known === undefined) {
    named.set(chunk.digest, chunk);
  } else if (known.blockBytes !== chunk.blockBytes) {
    throw new CollectiveError(
      'bad-request',
      `${chunk.digest} is named as a page or with two block sizes (disk ${chunk.disk})`,
    );
  }
};
