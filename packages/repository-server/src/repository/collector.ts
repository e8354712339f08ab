/**
 * The collector. First it forgets versions, snapshots and subscriptions whose grace time is over, then it deletes the
 * objects and chunks that no manifest names, of a version or of a snapshot (see collect-snapshots.ts).
 * What is named is found by walking the manifests, not from the index; then each batch is looked at again under the
 * lock (index and reservations, as of now) before its files go. So a commit or an upload that runs beside it keeps
 * what it has: see `storeChunks` and `commitVersion` for their half. A server that was killed between the manifest and the
 * index has left a version that no row knows: so each batch first takes such manifests into the index.
 */
import { CollectiveError, type Digest } from '@collective/shared';
import { packedChunks, removeTraces } from './boot-traces.js';
import { type VersionRecord } from '../catalogue/catalogue.js';
import { type ChunkListing } from '../storage/blob-store.js';
import {
  addNewSnapshots,
  collectObjects,
  endUploads,
  forgetSnapshots,
  type SnapshotCollection,
  type WalkedSnapshots,
} from './collect-snapshots.js';
import { forgetIndex, healVersions } from './heal-catalogue.js';
import { type Repository } from './repository.js';
import { namedChunks } from './version-chunks.js';
import { readVersionFile, writeStateFile } from './version-file.js';

export type CollectionResult = SnapshotCollection & {
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
  // Sessions that have expired hold chunks until somebody ends them; beside no server nobody else would.
  await repository.catalogue.uploads.removeEnded(repository.clock.nowSeconds());
  await endUploads(repository);
  const forgotten = await forgetSnapshots(repository, options.graceSeconds);
  const versionsForgotten = await forgetVersions(repository, options.graceSeconds);
  const beforeMs = await youngestGarbageMs(repository);
  const snapshots = await collectObjects(repository);
  const named = await allNamedChunks(repository);
  for (const digest of snapshots.names.digests) named.add(digest);
  const listing: ChunkListing[] = [];
  let chunksKept = 0;
  for await (const chunk of repository.blobStore.listChunks()) {
    if (isGarbage(chunk, named, beforeMs)) listing.push(chunk);
    else chunksKept += 1;
  }
  let chunksDeleted = 0;
  let bytesDeleted = 0;
  for (let at = 0; at < listing.length; at += DELETE_BATCH) {
    const deleted = await deleteBatch(repository, snapshots, listing.slice(at, at + DELETE_BATCH));
    chunksDeleted += deleted.length;
    bytesDeleted += deleted.reduce((sum, chunk) => sum + chunk.chunkBytes, 0);
  }
  return {
    ...forgotten,
    ...snapshots.totals,
    versionsForgotten,
    chunksDeleted,
    bytesDeleted,
    chunksKept: chunksKept + listing.length - chunksDeleted,
  };
};

/** The plan: named by nothing, and older than anything that a session under way may rely on. */
export const isGarbage = (chunk: ChunkListing, named: ReadonlySet<Digest>, beforeMs: number): boolean =>
  !named.has(chunk.digest) && chunk.modifiedAtMs < beforeMs;

/** Is the version's grace time over? */
export const isOver = ({ state, stateSince }: VersionRecord, now: number, graceSeconds: number): boolean =>
  (state === 'withdrawn' || state === 'deleted') && stateSince + graceSeconds <= now;

const youngestGarbageMs = async ({ catalogue, clock }: Repository): Promise<number> => {
  const open = await catalogue.uploads.openUploads();
  return Math.min(clock.nowSeconds(), ...open.map((upload) => upload.createdAt)) * 1_000;
};

const forgetVersions = async (repository: Repository, graceSeconds: number): Promise<number> => {
  const { catalogue, blobStore, clock } = repository;
  const now = clock.nowSeconds();
  let forgotten = 0;
  for (const appliance of await catalogue.versions.appliances()) {
    await catalogue.exclusively(async () => {
      const head = await catalogue.versions.head(appliance);
      const last = await catalogue.versions.lastNumber(appliance);
      for (const record of await catalogue.versions.versions(appliance)) {
        if (record.version === head?.version || record.version === last || !isOver(record, now, graceSeconds)) continue;
        await removeTraces(blobStore, appliance, record.version);
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
      if (file.digest !== record.manifest) {
        throw new CollectiveError(
          'local-io',
          `the manifest of ${appliance}@${record.version} has the digest ${file.digest}, not ${record.manifest}: run check`,
        );
      }
      for (const digest of (await namedChunks(file.manifest, maps)).keys()) named.add(digest);
      for (const digest of await packedChunks(blobStore, file.manifest)) named.add(digest);
    }
  }
  return named;
};

const deleteBatch = async (
  repository: Repository,
  snapshots: WalkedSnapshots,
  batch: readonly ChunkListing[],
): Promise<ChunkListing[]> => {
  const { catalogue, blobStore } = repository;
  return catalogue.exclusively(async () => {
    await healVersions(repository);
    await addNewSnapshots(repository, snapshots);
    const digests = batch.map(({ digest }) => digest);
    const live = await catalogue.versions.liveChunks(digests);
    const reserved = await catalogue.uploads.reservedChunks(digests);
    const isFree = (digest: Digest): boolean =>
      !live.has(digest) && !reserved.has(digest) && !snapshots.names.digests.has(digest);
    const doomed = batch.filter(({ digest }) => isFree(digest));
    if (doomed.length === 0) return doomed;
    // Durable before the first file goes: a commit that checked before must check again.
    await catalogue.versions.beginCollection();
    await blobStore.removeChunks(doomed.map(({ digest }) => digest));
    return doomed;
  });
};
