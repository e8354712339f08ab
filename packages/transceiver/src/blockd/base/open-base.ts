/**
 * Opens a base file with its maps: of each block whether it is zero, public or private, and its digest. What a block inherits is looked up in the
 * map of the initial user disk. Everything is checked: the file against its name, the maps against the roots.
 */
import {
  CollectiveError,
  DIGEST_BYTES,
  DiskMap,
  MAP_KIND,
  sha256,
  type ChangedPairs,
  type Digest,
} from '@collective/shared';
import type { FileSystem } from '../../storage/file-system.js';
import { readPairsFile } from '../control/map-file.js';
import { BASE_FILE_BYTES_MAX, baseFilePath, baseMapPath, decodeBaseFile, type BaseFile } from './base-file.js';

export type OpenedBase = {
  /** Of the base file: its name. */
  readonly digest: Digest;
  readonly file: BaseFile;
  readonly diskBytes: number;
  readonly blockBytes: number;
  readonly blockCount: number;
  /** Of each block MAP_KIND.zero, .public or .private. */
  readonly kinds: Uint8Array;
  /** Of each block 32 bytes; zeroes where it is zero. */
  readonly digestBytes: Buffer;
};

/**
 * `folder` holds `bases/` and `maps/`. Errors: `not-found` (the file or a map), `digest-mismatch` (the file's name, a root), `malformed`,
 * `unknown-format`, `too-large`, `local-io`.
 */
export const openBase = async (fileSystem: FileSystem, folder: string, digest: Digest): Promise<OpenedBase> => {
  const path = baseFilePath(folder, digest);
  const bytes = await fileSystem.readWhole(path, BASE_FILE_BYTES_MAX);
  if (bytes === undefined) throw new CollectiveError('not-found', `there is no base file ${path}`);
  const found = sha256(bytes);
  if (found !== digest) throw new CollectiveError('digest-mismatch', `${path} has the digest ${found}`);
  const file = decodeBaseFile(bytes);
  const { diskBytes, blockBytes } = file;

  const map = DiskMap.empty(file, file.base === null ? 'zero' : 'inherit');
  for (const name of file.maps) {
    const pairs = await readPairsFile(fileSystem, baseMapPath(folder, name));
    if (pairs.diskBytes !== diskBytes || pairs.blockBytes !== blockBytes) throw otherShape(name, pairs);
    map.apply(pairs);
  }
  expectRoot(map, file.root, path);
  if (file.base === null) {
    if (map.kinds.includes(MAP_KIND.inherit))
      throw new CollectiveError('malformed', `${path}: a block inherits, but there is no base`);
  } else await inherit(fileSystem, { folder, map, base: file.base });
  if (file.objects.length === 0 && map.kinds.includes(MAP_KIND.private))
    throw new CollectiveError('malformed', `${path}: a block is private, but there are no objects`);
  const { blockCount, kinds, digestBytes } = map;
  return { digest, file, diskBytes, blockBytes, blockCount, kinds, digestBytes };
};

/** What the map inherits becomes what the initial user disk has there; zero beyond its end. */
const inherit = async (
  fileSystem: FileSystem,
  {
    folder,
    map,
    base,
  }: { readonly folder: string; readonly map: DiskMap; readonly base: NonNullable<BaseFile['base']> },
): Promise<void> => {
  const path = baseMapPath(folder, base.map);
  const pairs = await readPairsFile(fileSystem, path);
  if (pairs.blockBytes !== map.blockBytes) throw otherShape(base.map, pairs);
  const initial = DiskMap.empty(pairs).apply(pairs);
  expectRoot(initial, base.root, path);
  if (initial.kinds.some((kind) => kind !== MAP_KIND.zero && kind !== MAP_KIND.public))
    throw new CollectiveError('malformed', `${path}: the map of a published disk has blocks that are not public`);
  map.kinds.forEach((kind, index) => {
    if (kind !== MAP_KIND.inherit) return;
    map.kinds[index] = initial.kinds[index] ?? MAP_KIND.zero;
    const at = index * DIGEST_BYTES;
    if (index < initial.blockCount) initial.digestBytes.copy(map.digestBytes, at, at, at + DIGEST_BYTES);
  });
};

const expectRoot = (map: DiskMap, expected: Digest, path: string): void => {
  const { root } = map.build();
  if (root !== expected)
    throw new CollectiveError('digest-mismatch', `${path}: its maps lead to root ${root}, expected ${expected}`);
};

const otherShape = (name: string, pairs: ChangedPairs): CollectiveError =>
  new CollectiveError(
    'malformed',
    `map ${name} is for a disk of ${pairs.diskBytes} bytes in blocks of ${pairs.blockBytes}`,
  );
