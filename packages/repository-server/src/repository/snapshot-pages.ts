/**
 * The pages of a snapshot's maps: found in the objects that it lists, or, where the map still is the publisher's, among
 * the public chunks. And the walk over them, which leaves out what is the same in an older map at the same place, so that
 * it costs what has changed.
 */
import {
  checkedPage,
  CollectiveError,
  decodeChunk,
  decodePageColumns,
  type Digest,
  type DiskShape,
  MAP_FANOUT,
  MAP_KIND,
  MAP_PAGE_BYTES_MAX,
  type MapColumns,
  mapShape,
  pageDigestAt,
} from '@collective/shared';
import { type BlobStore } from '../storage/blob-store.js';
import { type SnapshotObjects } from './snapshot-objects.js';

export type SnapshotMap = DiskShape & { readonly root: Digest; readonly inheritAllowed: boolean };
export type PageReader = (digest: Digest) => Promise<Buffer>;
export type LeafVisit = (leaf: {
  readonly columns: MapColumns;
  /** The leaf of the older map at this place. */
  readonly older: MapColumns | undefined;
  readonly firstBlock: number;
}) => Promise<void>;

/** Reads pages of a snapshot with these objects; `onPublic` learns which of them are public chunks. Errors: `block-missing`. */
export const pageReader =
  (
    blobStore: BlobStore,
    parts: {
      readonly objects: SnapshotObjects;
      readonly numbers: readonly number[];
      readonly onPublic: (digest: Digest) => void;
    },
  ): PageReader =>
  async (digest) => {
    const found = await parts.objects.find(digest, parts.numbers);
    if (found !== undefined) return found.object.page(digest, found.place);
    const chunk = await blobStore.readChunk(digest);
    if (chunk === undefined)
      throw new CollectiveError('block-missing', `the map page ${digest} is in none of the objects`, {
        data: { digest },
      });
    parts.onPublic(digest);
    return decodeChunk(chunk, { digest, plainBytesMax: MAP_PAGE_BYTES_MAX });
  };

/**
 * Every leaf of the map but those that `older` has at the same place, unless `visitsSame`, and those below a page that
 * `enter` refuses. Errors: those of `read` and of pages that are not canonical.
 */
export const walkMap = async (
  map: SnapshotMap,
  parts: {
    readonly read: PageReader;
    readonly leaf: LeafVisit;
    /** The root of a map of the same shape. */
    readonly older?: Digest | undefined;
    /** A page of that map; by `read` when absent. Undefined: nothing is known of what was there. */
    readonly olderColumns?: (digest: Digest) => Promise<MapColumns | undefined>;
    readonly visitsSame?: boolean;
    readonly enter?: (digest: Digest, level: number) => boolean;
  },
): Promise<void> => {
  const { read, leaf, visitsSame = false, enter = () => true } = parts;
  const { olderColumns = async (digest) => decodePageColumns(await read(digest)).columns } = parts;
  const walk = async (
    digest: Digest,
    older: Digest | undefined,
    at: { readonly level: number; readonly position: number },
  ): Promise<void> => {
    if ((digest === older && !visitsSame) || !enter(digest, at.level)) return;
    const columns = checkedPage(await read(digest), { ...map, ...at, digest });
    const before = digest === older ? columns : older === undefined ? undefined : await olderColumns(older);
    if (at.level === 0) return leaf({ columns, older: before, firstBlock: at.position * MAP_FANOUT });
    for (const [index, kind] of columns.kinds.entries()) {
      if (kind !== MAP_KIND.public) continue;
      const below = { level: at.level - 1, position: at.position * MAP_FANOUT + index };
      await walk(pageDigestAt(columns, index), publicAt(before, index), below);
    }
  };
  await walk(map.root, parts.older, { level: mapShape(map).levels - 1, position: 0 });
};

const publicAt = (columns: MapColumns | undefined, index: number): Digest | undefined =>
  columns?.kinds[index] === MAP_KIND.public ? pageDigestAt(columns, index) : undefined;
