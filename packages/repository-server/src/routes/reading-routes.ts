/** What a client reads: heads, appliances, versions, manifests, maps, boot traces, use. Access protects these; chunks need none. */
import { type FastifyInstance } from 'fastify';
import {
  type Access,
  CHUNK_BATCH_BYTES_MAX,
  CHUNK_BATCH_RECORDS_MAX,
  CHUNK_RECORD_HEADER_BYTES,
  CollectiveError,
  type DiskDescription,
  encodeBootTrace,
  encodeChangedPairs,
  encodeChunkBatch,
  encodeDiskUse,
  type VersionManifest,
} from '@collective/shared';
import { type Caller, listAccess, requirePublish, requireUse } from '../caller.js';
import { addTraceVote, putPublishersTrace, traceFor } from '../repository/boot-traces.js';
import { addUseRecord, diskUseFor } from '../repository/disk-uses.js';
import { isNamed, ownCandidates, type VersionName } from '../repository/candidates.js';
import { type StoredPage } from '../repository/map-store.js';
import { type Repository } from '../repository/repository.js';
import { isUnpromoted, readVersionFile, type VersionFile } from '../repository/version-file.js';
import { HEADS, promotionName } from '../storage/blob-names.js';
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
    const access = await requireUse(repository, caller, params.name);
    const rows = (await versions.versions(params.name)).filter(
      ({ state }) => state !== 'deleted' && state !== 'forgotten',
    );
    const mayRead = await Promise.all(
      rows.map(async ({ version }) => mayReadVersion(repository, { caller, access, name: params.name, version })),
    );
    return rows
      .filter((_row, at) => mayRead[at])
      .map(({ version, createdAt, title, manifest, state, chunkBytes }) => ({
        version,
        createdAt,
        title,
        manifest,
        withdrawn: state === 'withdrawn',
        candidate: state === 'candidate',
        bytes: chunkBytes,
      }));
  });
  // Also of a deleted version: the chain of parents leads through it.
  registerRoute(app, context, 'versionManifest', async ({ caller, params }) => {
    return (await readableVersion(repository, caller, params)).bytes;
  });
  registerRoute(app, context, 'candidates', async ({ caller }) => ownCandidates(repository, caller));
  // Whoever reads the manifest of a version that was a candidate asks for it.
  registerRoute(app, context, 'promotion', async ({ caller, params }) => {
    await requireUse(repository, caller, params.name);
    const bytes = await repository.blobStore.read(promotionName(params.name, params.version));
    if (bytes === undefined) throw noVersion(params);
    return bytes;
  });
  registerMapRoutes(app, context);
  registerTraceRoutes(app, context);
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
    return pageBatch(await maps.pagesToSend(map, { lowestLevel: query.part === 'upper' ? 1 : 0 }));
  });

  registerRoute(app, context, 'diskChanges', async ({ caller, params, query }) => {
    const disk = await publishedDisk(repository, caller, params);
    const since = await publishedDisk(repository, caller, { ...params, version: query.since });
    const [newer, older] = [await maps.load(disk), await maps.load(since)];
    return encodeChangedPairs(newer.changesSince(older));
  });
};

const registerTraceRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;

  registerRoute(app, context, 'bootTrace', async ({ caller, params: { name, version, disk } }) => {
    const traced = { name, version, disk: await publishedDisk(repository, caller, { name, version, disk }) };
    const trace = await traceFor(repository, traced);
    if (trace === undefined)
      throw new CollectiveError('not-found', `Nobody has told of a boot of ${name}@${version} yet`);
    return encodeBootTrace(trace);
  });
  registerRoute(app, context, 'addBootTrace', async ({ caller, params: { name, version, disk }, query, body }) => {
    const traced = { name, version, disk: await publishedDisk(repository, caller, { name, version, disk }) };
    if (query.kind === undefined) await addTraceVote(repository, traced, { account: caller.account, bytes: body });
    else {
      await requirePublish(repository, caller, name);
      await putPublishersTrace(repository.blobStore, traced, { kind: query.kind, bytes: body });
    }
    return {};
  });
  registerRoute(app, context, 'diskUse', async ({ caller, params: { name, version, disk } }) => {
    const used = { name, version, disk: await publishedDisk(repository, caller, { name, version, disk }) };
    const use = await diskUseFor(repository, used);
    if (use === undefined)
      throw new CollectiveError('not-found', `Too few have told of their use of ${name}@${version} yet`);
    return encodeDiskUse(use);
  });
  registerRoute(app, context, 'addUseRecord', async ({ caller, params: { name, version, disk }, body }) => {
    const used = { name, version, disk: await publishedDisk(repository, caller, { name, version, disk }) };
    await addUseRecord(repository, used, { account: caller.account, bytes: body });
    return {};
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

const noVersion = ({ name, version }: VersionName): CollectiveError =>
  new CollectiveError('not-found', `There is no version ${version} of ${name}`);

/** A version that was never for all is read by those who publish the appliance and those who are named. */
const mayReadVersion = async (
  repository: Repository,
  of: VersionName & { readonly caller: Caller; readonly access: Access },
): Promise<boolean> => {
  const file = await readVersionFile(repository.blobStore, of.name, of.version);
  if (file === undefined || of.access === 'publish') return true;
  return !(await isUnpromoted(repository.blobStore, file)) || (await isNamed(repository, of.caller, of));
};

/** Errors: `not-found` also for a candidate that is not the caller's. */
const readableVersion = async (repository: Repository, caller: Caller, params: VersionName): Promise<VersionFile> => {
  const { name, version } = params;
  const access = await requireUse(repository, caller, name);
  const file = await versionFile(repository, params);
  if (!(await mayReadVersion(repository, { caller, access, name, version }))) throw noVersion(params);
  return file;
};

const versionFile = async (repository: Repository, { name, version }: VersionName): Promise<VersionFile> => {
  const record = await repository.catalogue.versions.version(name, version);
  const file = record === undefined ? undefined : await readVersionFile(repository.blobStore, name, version);
  if (file === undefined) throw noVersion({ name, version });
  return file;
};

const publishedDisk = async (
  repository: Repository,
  caller: Caller,
  params: { readonly name: string; readonly version: number; readonly disk: string },
): Promise<DiskDescription> => {
  const file = await readableVersion(repository, caller, params);
  const record = await repository.catalogue.versions.version(params.name, params.version);
  if (record?.state === 'deleted' || record?.state === 'forgotten') {
    throw new CollectiveError('not-found', `Version ${params.version} of ${params.name} has been deleted`);
  }
  const disk = diskOf(file.manifest, params.disk);
  if (disk === undefined)
    throw new CollectiveError('not-found', `${params.name}@${params.version} has no disk ${params.disk}`);
  return disk;
};

const diskOf = (manifest: VersionManifest, name: string): DiskDescription | undefined =>
  manifest.disks.find((disk) => disk.name === name);
