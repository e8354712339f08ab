/**
 * A disk map as the agent hands it over: a file with either a list of changed pairs relative to nothing, or all pages as one
 * chunk batch. Nothing in it is trusted: pages are checked from the root down, and a list is rebuilt to a root.
 */
import {
  CollectiveError,
  DiskMap,
  decodeChangedPairs,
  decodeChunk,
  decodeChunkBatch,
  type Digest,
} from '@collective/shared';
import type { FileSystem } from '../../storage/file-system.js';

/** 2^27 pairs of 37 bytes would be 5 GB; a disk of 1 TiB in 64 KiB blocks has 2^24. */
const MAP_FILE_BYTES_MAX = 1 << 30;
const PAGE_BYTES_MAX = 4136;

/** Errors: `not-found`, `malformed`, `digest-mismatch`, `block-missing`, `too-large`. */
export const readMapFile = async (
  fileSystem: FileSystem,
  path: string,
  expected: { readonly diskBytes: number; readonly blockBytes: number; readonly root: Digest },
): Promise<DiskMap> => {
  const bytes = await fileSystem.readWhole(path, MAP_FILE_BYTES_MAX);
  if (bytes === undefined) throw new CollectiveError('not-found', `there is no map file ${path}`);
  return bytes.subarray(0, 3).toString('latin1') === 'CBT' ? fromPages(bytes, expected) : fromPairs(bytes, expected);
};

const fromPages = (bytes: Buffer, expected: { diskBytes: number; blockBytes: number; root: Digest }): DiskMap => {
  const pages = new Map<Digest, Buffer>();
  for (const { digest, chunk } of decodeChunkBatch(bytes))
    pages.set(digest, decodeChunk(chunk, { digest, plainBytesMax: PAGE_BYTES_MAX }));
  return DiskMap.fromPages({ ...expected, pages: (digest) => pages.get(digest) });
};

const fromPairs = (bytes: Buffer, expected: { diskBytes: number; blockBytes: number; root: Digest }): DiskMap => {
  const pairs = decodeChangedPairs(bytes);
  if (pairs.diskBytes !== expected.diskBytes || pairs.blockBytes !== expected.blockBytes) {
    throw new CollectiveError(
      'malformed',
      `the map file is for a disk of ${pairs.diskBytes} bytes in blocks of ${pairs.blockBytes}`,
    );
  }
  const map = DiskMap.empty(expected).apply(pairs);
  const { root } = map.build();
  if (root !== expected.root)
    throw new CollectiveError('digest-mismatch', `the map file has root ${root}, expected ${expected.root}`);
  return map;
};
