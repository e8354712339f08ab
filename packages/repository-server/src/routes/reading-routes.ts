/** What a client reads: heads, appliances, versions, manifests, maps. Access protects these; chunks need none. */
import { type FastifyInstance } from 'fastify';
import {
  CHUNK_BATCH_BYTES_MAX,
  CHUNK_BATCH_RECORDS_MAX,
  CHUNK_RECORD_HEADER_BYTES,
  CollectiveError,
  type DiskDescription,
  encodeChangedPairs,
  encodeChunkBatch,
  type VersionManifest,
} from '@collective/shared';
import { type Caller, listAccess, requireUse } from '../caller.js';
import { type StoredPage } from '../repository/map-store.js';
import { type Repository } from '../repository/repository.js';
import { readVersionFile, type VersionFile } from '../repository/version-file.js';
import { HEADS } from '../storage/blob-names.js';
import { registerRoute, type RouteContext } from './register-route.js';

export const registerReadingRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;
  const { versions } = repository.catalogue;

  registerRoute(app, context, 'heads', async () => {
    const bytes = await repository.blobStore.read(HEADS);
    if (bytes === undefined) throw new CollectiveError('internal', 'the heads file is missing');
    return bytes;
  });
  registerRoute(app, context, 'appliances', async ({ caller }) =>
    Promise.all(
      (await listAccess(repository, caller)).map(async ({ name, access }) => {
        const head = await versions.head(name);
        return { name, access, title: head?.title ?? '', latest: head?.version ?? null };
      }),
    ),
  );
  registerRoute(app, context, 'versions', async ({ caller, params }) => {
    await requireUse(repository, caller, params.name);
    return (await versions.versions(params.name))
      .filter(({ state }) => state === 'live' || state === 'withdrawn')
      .map(({ version, createdAt, title, manifest, state, chunkBytes }) => ({
        version,
        createdAt,
        title,
        manifest,
        withdrawn: state === 'withdrawn',
        bytes: chunkBytes,
      }));
  });
  // Also of a deleted version: the chain of parents leads through it.
  registerRoute(app, context, 'versionManifest', async ({ caller, params }) => {
    await requireUse(repository, caller, params.name);
    return (await versionFile(repository, params)).bytes;
  });
  registerMapRoutes(app, context);
};

const registerMapRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;
  const { maps } = repository;

  registerRoute(app, context, 'diskMap', async ({ caller, params, query }) => {
    const disk = await publishedDisk(repository, caller, params);
    if (disk.root === null) return encodeChunkBatch([]);
    const map = { ...disk, root: disk.root };
    if ((query.part === 'leaves') !== (query.positions !== undefined)) {
      throw new CollectiveError('bad-request', 'positions go with part=leaves, and only with it');
    }
    if (query.positions !== undefined) {
      return pageBatch(await maps.storedLeaves(map, query.positions.split(',').map(Number)));
    }
    return pageBatch(await maps.storedPages(map, { lowestLevel: query.part === 'upper' ? 1 : 0 }));
  });

  registerRoute(app, context, 'diskChanges', async ({ caller, params, query }) => {
    const disk = await publishedDisk(repository, caller, params);
    const since = await publishedDisk(repository, caller, { ...params, version: query.since });
    const [newer, older] = [await maps.load(disk), await maps.load(since)];
    return encodeChangedPairs(newer.changesSince(older));
  });
};

/** One chunk batch. Errors: `too-large` when the pages do not fit: then the client asks for parts. */
const pageBatch = (pages: readonly StoredPage[]): Buffer => {
  const batchBytes = pages.reduce((sum, page) => sum + CHUNK_RECORD_HEADER_BYTES + page.chunk.length, 8);
  if (pages.length > CHUNK_BATCH_RECORDS_MAX || batchBytes > CHUNK_BATCH_BYTES_MAX) {
    throw new CollectiveError(
      'too-large',
      `${pages.length} pages (${batchBytes} bytes) do not fit into one batch: ask for part=upper and for leaves`,
    );
  }
  return encodeChunkBatch(pages);
};

const versionFile = async (
  repository: Repository,
  { name, version }: { readonly name: string; readonly version: number },
): Promise<VersionFile> => {
  const record = await repository.catalogue.versions.version(name, version);
  const file = record === undefined ? undefined : await readVersionFile(repository.blobStore, name, version);
  if (file === undefined) throw new CollectiveError('not-found', `There is no version ${version} of ${name}`);
  return file;
};

const publishedDisk = async (
  repository: Repository,
  caller: Caller,
  params: { readonly name: string; readonly version: number; readonly disk: string },
): Promise<DiskDescription> => {
  await requireUse(repository, caller, params.name);
  const record = await repository.catalogue.versions.version(params.name, params.version);
  if (record?.state === 'deleted' || record?.state === 'forgotten') {
    throw new CollectiveError('not-found', `Version ${params.version} of ${params.name} has been deleted`);
  }
  const { manifest } = await versionFile(repository, params);
  const disk = diskOf(manifest, params.disk);
  if (disk === undefined)
    throw new CollectiveError('not-found', `${params.name}@${params.version} has no disk ${params.disk}`);
  return disk;
};

const diskOf = (manifest: VersionManifest, name: string): DiskDescription | undefined =>
  manifest.disks.find((disk) => disk.name === name);
