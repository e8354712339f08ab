/**
 * The collector. First it forgets versions whose grace time is over, then it deletes the chunks that no manifest names.
 * What is named is found by walking the manifests, not from the index; then each batch is looked at again under the
 * lock (index and reservations, as of now) before its files go. So a commit or an upload that runs beside it keeps
 * what it has: see `storeChunks` and `commitVersion` for their half.
 */
import { CollectiveError, type Digest } from '@collective/shared';
import { type VersionRecord } from '../catalogue/catalogue.js';
import { USERS_FOLDER, userFolder, isAccountName } from '../storage/blob-names.js';
import { type BlobStore, type ChunkListing } from '../storage/blob-store.js';
import { forgetIndex } from './heal-catalogue.js';
import { type Repository } from './repository.js';
import { namedChunks } from './version-chunks.js';
import { readVersionFile, writeStateFile } from './version-file.js';

export type CollectionResult = {
  readonly versionsForgotten: number;
  readonly chunksDeleted: number;
  readonly bytesDeleted: number;
  readonly chunksKept: number;
};

const DELETE_BATCH = 256;

/** Errors: those of a damaged repository (then nothing is deleted), `in-use`. */
export const collectGarbage = async (
  repository: Repository,
  options: { readonly graceSeconds: number },
): Promise<CollectionResult> => {
  await refuseSnapshots(repository.blobStore);
  const versionsForgotten = await forgetVersions(repository, options.graceSeconds);
  const beforeMs = await youngestGarbageMs(repository);
  const named = await allNamedChunks(repository);
  const listing: ChunkListing[] = [];
  let chunksKept = 0;
  for await (const chunk of repository.blobStore.listChunks()) {
    if (isGarbage(chunk, named, beforeMs)) listing.push(chunk);
    else chunksKept += 1;
  }
  let chunksDeleted = 0;
  let bytesDeleted = 0;
  for (let at = 0; at < listing.length; at += DELETE_BATCH) {
    const deleted = await deleteBatch(repository, listing.slice(at, at + DELETE_BATCH));
    chunksDeleted += deleted.length;
    bytesDeleted += deleted.reduce((sum, chunk) => sum + chunk.chunkBytes, 0);
  }
  return { versionsForgotten, chunksDeleted, bytesDeleted, chunksKept: chunksKept + listing.length - chunksDeleted };
};

/** The plan: named by nothing, and older than anything that a session under way may rely on. */
export const isGarbage = (chunk: ChunkListing, named: ReadonlySet<Digest>, beforeMs: number): boolean =>
  !named.has(chunk.digest) && chunk.modifiedAtMs < beforeMs;

/** Is the version's grace time over? */
export const isOver = ({ state, stateSince }: VersionRecord, now: number, graceSeconds: number): boolean =>
  (state === 'withdrawn' || state === 'deleted') && stateSince + graceSeconds <= now;

const youngestGarbageMs = async ({ catalogue, clock }: Repository): Promise<number> => {
  const now = clock.nowSeconds();
  const open = (await catalogue.uploads.openUploads()).filter((upload) => upload.expiresAt > now);
  return Math.min(now, ...open.map((upload) => upload.createdAt)) * 1_000;
};

const forgetVersions = async (repository: Repository, graceSeconds: number): Promise<number> => {
  const { catalogue, blobStore, clock } = repository;
  const now = clock.nowSeconds();
  let forgotten = 0;
  for (const appliance of await catalogue.versions.appliances()) {
    await catalogue.exclusively(async () => {
      const head = await catalogue.versions.head(appliance);
      for (const record of await catalogue.versions.versions(appliance)) {
        if (record.version === head?.version || !isOver(record, now, graceSeconds)) continue;
        await writeStateFile(blobStore, appliance, record.version, { state: 'forgotten', since: now });
        await catalogue.versions.setVersionState(appliance, record.version, 'forgotten', now);
        await forgetIndex(repository, appliance, record.version);
        forgotten += 1;
      }
    });
  }
  return forgotten;
};

/** Errors: those of a manifest or page that cannot be read: what it names is not known, so nothing may go. */
const allNamedChunks = async ({ catalogue, blobStore, maps }: Repository): Promise<Set<Digest>> => {
  const named = new Set<Digest>();
  for (const appliance of await catalogue.versions.appliances()) {
    for (const record of await catalogue.versions.versions(appliance)) {
      if (record.state === 'forgotten') continue;
      const file = await readVersionFile(blobStore, appliance, record.version);
      if (file === undefined)
        throw new CollectiveError('local-io', `the manifest of ${appliance}@${record.version} is missing: run check`);
      for (const digest of (await namedChunks(file.manifest, maps)).keys()) named.add(digest);
    }
  }
  return named;
};

const deleteBatch = async (
  { catalogue, blobStore }: Repository,
  batch: readonly ChunkListing[],
): Promise<ChunkListing[]> =>
  catalogue.exclusively(async () => {
    const digests = batch.map(({ digest }) => digest);
    const live = await catalogue.versions.liveChunks(digests);
    const reserved = await catalogue.uploads.reservedChunks(digests);
    const doomed = batch.filter(({ digest }) => !live.has(digest) && !reserved.has(digest));
    if (doomed.length === 0) return doomed;
    // Durable before the first file goes: a commit that checked before must check again.
    await catalogue.versions.beginCollection();
    await blobStore.removeChunks(doomed.map(({ digest }) => digest));
    return doomed;
  });

/** Snapshots name public chunks too; a program that cannot read them must not collect. */
const refuseSnapshots = async (blobStore: BlobStore): Promise<void> => {
  for (const account of (await blobStore.list(USERS_FOLDER)).filter(isAccountName)) {
    const others = (await blobStore.list(userFolder(account))).filter(
      (name) => name !== 'keys.json' && name !== 'profile',
    );
    if (others.length > 0) {
      throw new CollectiveError(
        'unknown-format',
        `users/${account}/${others[0] ?? ''} may name chunks and this program cannot read it: nothing was collected`,
      );
    }
  }
};
