/**
 * Disk maps of published versions: from the object cache, else from the repository. Small maps come whole in one answer,
 * larger ones as their upper pages and then their leaves in groups, so that pages never trickle (DESIGN §5). Every page
 * is checked against its digest on its way to the root that the signed manifest names.
 */
import {
  CollectiveError,
  DiskMap,
  MAP_PAGE_BYTES_MAX,
  decodeChangedPairs,
  decodeChunk,
  decodeChunkBatch,
  hasCode,
  isDigest,
  type Digest,
  type DiskDescription,
  type VersionManifest,
} from '@collective/shared';
import type { RepositoryClient } from '../repository/repository-client.js';
import type { ObjectCache } from './object-cache.js';

/** A map that is smaller than this is asked for as a whole. */
const WHOLE_BYTES_MAX = 1024 * 1024;
/** Leaves of one request: 512 × 4,136 bytes stay below a batch. */
const LEAVES_A_REQUEST = 512;
const FANOUT = 128;
const ANSWER_BYTES_MAX = 8 * 1024 * 1024;

export type MapSource = Pick<RepositoryClient, 'call'>;

export type LoadOptions = {
  readonly manifest: VersionManifest;
  readonly disk: DiskDescription;
  readonly objects: ObjectCache;
  /** Undefined: only what is at hand. */
  readonly client: MapSource | undefined;
  readonly signal?: AbortSignal;
};

/** The disk's map, whole. Errors: `repository-unreachable` (it is not at hand), `malformed`, `digest-mismatch`. */
export async function loadDiskMap(options: LoadOptions): Promise<DiskMap> {
  const { disk } = options;
  if (disk.root === null) return DiskMap.empty(disk);
  const held = mapAtHand(options);
  if (held instanceof DiskMap) return held;
  if (options.client === undefined) {
    throw new CollectiveError(
      'repository-unreachable',
      `The map of disk ${disk.name} of ${options.manifest.appliance}@${String(options.manifest.version)} is not on this machine, and the repository cannot be asked.`,
    );
  }
  const isSmall = Math.ceil(disk.diskBytes / disk.blockBytes) * 33 < WHOLE_BYTES_MAX;
  if (isSmall) await fetchPages(options, options.client, { part: 'all' });
  else await fetchLarge(options, options.client);
  const fetched = mapAtHand(options);
  if (fetched instanceof DiskMap) return fetched;
  throw new CollectiveError(
    'block-missing',
    `The repository did not send page ${fetched} of the map of disk ${disk.name}.`,
    { data: { digest: fetched } },
  );
}

/** Builds the map of a version from one that is at hand and the changed pairs, and keeps its pages. Undefined: ask for the pages. */
export async function updateDiskMap(
  older: { readonly map: DiskMap; readonly version: number },
  options: LoadOptions,
): Promise<DiskMap | undefined> {
  const { disk, manifest, client } = options;
  if (client === undefined || disk.root === null || older.map.blockBytes !== disk.blockBytes) return undefined;
  const params = { name: manifest.appliance, version: manifest.version, disk: disk.name };
  const bytes = await client.call('diskChanges', {
    params,
    query: { since: older.version },
    responseBytesMax: 640_000_000,
    ...signalOf(options.signal),
  });
  const map = older.map.clone().apply(decodeChangedPairs(bytes));
  const { root, pages } = map.build();
  if (root !== disk.root || map.diskBytes !== disk.diskBytes) return undefined;
  await options.objects.put('page', pages);
  return map;
}

/** The map, or the digest of a page that is not at hand. */
function mapAtHand({ disk, objects }: LoadOptions): DiskMap | Digest {
  if (disk.root === null) return DiskMap.empty(disk);
  try {
    return DiskMap.fromPages({
      diskBytes: disk.diskBytes,
      blockBytes: disk.blockBytes,
      root: disk.root,
      pages: (digest) => objects.get('page', digest),
    });
  } catch (error) {
    const digest = hasCode(error, 'block-missing') ? error.data['digest'] : undefined;
    if (typeof digest === 'string' && isDigest(digest)) return digest;
    throw error;
  }
}

async function fetchLarge(options: LoadOptions, client: MapSource): Promise<void> {
  await fetchPages(options, client, { part: 'upper' });
  const leaves = Math.ceil(Math.ceil(options.disk.diskBytes / options.disk.blockBytes) / FANOUT);
  for (let first = 0; first < leaves; first += LEAVES_A_REQUEST) {
    const positions = Array.from({ length: Math.min(LEAVES_A_REQUEST, leaves - first) }, (_none, at) => first + at);
    await fetchPages(options, client, { part: 'leaves', positions: positions.join(',') });
  }
}

async function fetchPages(
  options: LoadOptions,
  client: MapSource,
  query: { readonly part: 'all' | 'upper' | 'leaves'; readonly positions?: string },
): Promise<void> {
  const { disk, manifest } = options;
  const params = { name: manifest.appliance, version: manifest.version, disk: disk.name };
  const batch = await client.call('diskMap', {
    params,
    query,
    responseBytesMax: ANSWER_BYTES_MAX,
    ...signalOf(options.signal),
  });
  const pages = decodeChunkBatch(batch).map(
    ({ digest, chunk }) => [digest, decodeChunk(chunk, { digest, plainBytesMax: MAP_PAGE_BYTES_MAX })] as const,
  );
  await options.objects.put('page', pages);
}

const signalOf = (signal: AbortSignal | undefined): { signal?: AbortSignal } =>
  signal === undefined ? {} : { signal };
