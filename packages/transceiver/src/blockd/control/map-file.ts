/**
 * A disk map as the agent hands it over: a file with a list of changed pairs relative to nothing. Nothing in it is
 * trusted: the pages are rebuilt to the root.
 *
 * Never pages as chunks: this runs in the serving thread, zstd has one static context a process (shared/src/zstd.ts),
 * and the fetching thread uses it at any time.
 */
import { CollectiveError, DiskMap, decodeChangedPairs, type ChangedPairs, type Digest } from '@collective/shared';
import type { FileSystem } from '../../storage/file-system.js';

/** 2^27 pairs of 37 bytes would be 5 GB; a disk of 1 TiB in 64 KiB blocks has 2^24. */
const MAP_FILE_BYTES_MAX = 1 << 30;

/** Errors: `not-found`, `malformed`, `digest-mismatch`, `too-large`. */
export const readMapFile = async (
  fileSystem: FileSystem,
  path: string,
  expected: { readonly diskBytes: number; readonly blockBytes: number; readonly root: Digest },
): Promise<DiskMap> => {
  const pairs = await readPairsFile(fileSystem, path);
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

/** The list in a file, not applied to anything yet. Errors: `not-found`, `malformed`, `unknown-format`, `too-large`. */
export const readPairsFile = async (fileSystem: FileSystem, path: string): Promise<ChangedPairs> => {
  const bytes = await fileSystem.readWhole(path, MAP_FILE_BYTES_MAX);
  if (bytes === undefined) throw new CollectiveError('not-found', `there is no map file ${path}`);
  return decodeChangedPairs(bytes);
};
