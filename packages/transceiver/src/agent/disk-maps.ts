/**
 * Disk maps of published versions: from the object cache, else from the repository. After an update the list of changed
 * pairs against the newest version at hand is asked for; else small maps come whole in one answer, larger ones as their
 * upper pages and then their leaves in groups, so that pages never trickle (DESIGN §5). Every page is checked against its
 * digest on its way to the root that the signed manifest names, a list by the root that it leads to.
 */
import {
  CollectiveError,
  DiskMap,
  MAP_PAGE_BYTES_MAX,
  PAYLOAD_TYPES,
  decodeChangedPairs,
  decodeChunk,
  decodeChunkBatch,
  decodeVersionManifest,
  hasCode,
  isDigest,
  openEnvelope,
  type Digest,
  type DiskDescription,
  type VersionManifest,
} from '@collective/shared';
import type { RepositoryClient } from '../repository/repository-client.js';
import type { ObjectCache } from './object-cache.js';

/** A map that is smaller than this is asked for as a whole: of 4 GiB in blocks of 64 KiB. One batch holds it even where nothing of it can be compressed. */
const WHOLE_BYTES_MAX = 2 * 1024 * 1024 + 65_536;
/** Leaves of one request: 512 × 4,136 bytes stay below a batch. */
const LEAVES_A_REQUEST = 512;
const FANOUT = 128;
const ANSWER_BYTES_MAX = 8 * 1024 * 1024;
/** 1 TiB in 64 KiB blocks, all changed. */
const CHANGES_BYTES_MAX = 640_000_000;
/** Versions that are looked at for one whose map is at hand. */
const OLDER_TRIED_MAX = 16;

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
  const updated = await mapByChanges(options, options.client);
  if (updated !== undefined) return updated;
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

/**
 * After an update: the map out of the newest older version's that is at hand, and the list of changed pairs, which is all
 * that travels then. Undefined when nothing older is at hand, or the list does not lead to the signed root: ask for pages.
 */
async function mapByChanges(options: LoadOptions, client: MapSource): Promise<DiskMap | undefined> {
  const { disk, manifest, objects } = options;
  const older = await olderMap(options);
  if (older === undefined) return undefined;
  const params = { name: manifest.appliance, version: manifest.version, disk: disk.name };
  try {
    const bytes = await client.call('diskChanges', {
      params,
      query: { since: older.version },
      responseBytesMax: CHANGES_BYTES_MAX,
      ...signalOf(options.signal),
    });
    const changes = decodeChangedPairs(bytes);
    // Before a byte of memory is taken for what the list says of itself.
    if (changes.diskBytes !== disk.diskBytes || changes.blockBytes !== disk.blockBytes) return undefined;
    const map = older.map.apply(changes);
    const { root, pages } = map.build();
    if (root !== disk.root) return undefined;
    await objects.put('page', pages);
    return map;
  } catch (error) {
    // The older version may have been deleted there, or the list be broken: the pages are checked one by one.
    if (error instanceof CollectiveError && error.code !== 'repository-unreachable') return undefined;
    throw error;
  }
}

/** The disk in the newest version before this one that was verified here and whose pages are still at hand. */
export async function olderMap({
  disk,
  manifest,
  objects,
}: Pick<LoadOptions, 'disk' | 'manifest' | 'objects'>): Promise<
  { readonly map: DiskMap; readonly version: number } | undefined
> {
  const all = await objects.verifiedVersions(manifest.appliance);
  const versions = all.filter((version) => version < manifest.version);
  for (const version of versions.reverse().slice(0, OLDER_TRIED_MAX)) {
    const digest = objects.verifiedManifest(manifest.appliance, version);
    const bytes = digest === undefined ? undefined : objects.get('manifest', digest);
    if (bytes === undefined) continue;
    const { payload } = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.version });
    const older = decodeVersionManifest(payload).disks.find(({ name }) => name === disk.name);
    if (older === undefined || older.root === null || older.blockBytes !== disk.blockBytes) continue;
    const map = mapAtHand({ disk: older, objects });
    if (map instanceof DiskMap) return { map, version };
  }
  return undefined;
}

/** The map, or the digest of a page that is not at hand. */
function mapAtHand({ disk, objects }: Pick<LoadOptions, 'disk' | 'objects'>): DiskMap | Digest {
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
