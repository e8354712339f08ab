/**
 * Makes the catalogue's index of versions agree with the manifest files, which are the truth: a version whose manifest
 * was linked just before a crash gets its row, a version folder without a manifest is nothing, and chunks of versions
 * whose indexing was cut off are indexed. Callers hold the lock.
 */
import { checkStoredChunk, CollectiveError, type VersionManifest } from '@collective/shared';
import { type Catalogue, type SizedChunk, type VersionRecord } from '../catalogue/catalogue.js';
import { type BlobStore } from '../storage/blob-store.js';
import { type MapStore } from './map-store.js';
import { namedChunks } from './version-chunks.js';
import { readStateFile, readVersionFile, storedAppliances, storedVersionNumbers } from './version-file.js';

export type HealParts = { readonly blobStore: BlobStore; readonly catalogue: Catalogue; readonly maps: MapStore };

/** Returns what it could not heal, a sentence each; `check` says more. Nothing that it cannot read is dropped. */
export const healCatalogue = async (parts: HealParts): Promise<string[]> => {
  const problems: string[] = [];
  const appliances = new Set([
    ...(await storedAppliances(parts.blobStore)),
    ...(await parts.catalogue.versions.appliances()),
  ]);
  for (const appliance of appliances) problems.push(...(await healAppliance(parts, appliance)));
  return problems;
};

/** One appliance: cheap when nothing is amiss (one folder listing and one read per version that has no row). */
export const healAppliance = async (parts: HealParts, appliance: string): Promise<string[]> => {
  const { blobStore, catalogue } = parts;
  const problems: string[] = [];
  const known = new Map((await catalogue.versions.versions(appliance)).map((record) => [record.version, record]));
  const stored = await storedVersionNumbers(blobStore, appliance);
  for (const version of stored) {
    const record = known.get(version);
    known.delete(version);
    try {
      if (record === undefined) await addRow(parts, appliance, version);
      else if (record.indexed !== (record.state !== 'forgotten')) await reindex(parts, record);
    } catch (error) {
      if (!(error instanceof CollectiveError)) throw error;
      problems.push(`${appliance}@${version}: ${error.message}`);
    }
  }
  for (const version of known.keys()) problems.push(`${appliance}@${version}: its folder is missing`);
  return problems;
};

const addRow = async (parts: HealParts, appliance: string, version: number): Promise<void> => {
  const file = await readVersionFile(parts.blobStore, appliance, version);
  if (file === undefined) return;
  const { state, since } = await readStateFile(parts.blobStore, appliance, version);
  const record: VersionRecord = {
    appliance,
    version,
    manifest: file.digest,
    createdAt: file.manifest.createdAt,
    title: file.manifest.title,
    chunkBytes: 0,
    state,
    stateSince: since,
    indexed: false,
  };
  await parts.catalogue.versions.recordVersion(record);
  await reindex(parts, record);
};

const reindex = async (parts: HealParts, record: VersionRecord): Promise<void> => {
  if (record.state === 'forgotten') return forgetIndex(parts, record.appliance, record.version);
  const file = await readVersionFile(parts.blobStore, record.appliance, record.version);
  if (file === undefined) return;
  const chunks = await storedSizes(parts, file.manifest);
  await indexVersion(parts.catalogue, record, chunks);
};

/** Puts a version's chunks into the live-chunk index; the version's row is `indexed` when all are in. */
export const indexVersion = async (
  catalogue: Catalogue,
  record: VersionRecord,
  chunks: readonly SizedChunk[],
): Promise<void> => {
  await catalogue.versions.addLiveChunks(record.appliance, chunks);
  const chunkBytes = chunks.reduce((sum, chunk) => sum + chunk.chunkBytes, 0);
  await catalogue.versions.recordVersion({ ...record, chunkBytes, indexed: true });
};

/** Takes what only this version names out of the index. */
export const forgetIndex = async (parts: HealParts, appliance: string, version: number): Promise<void> => {
  const gone = await parts.catalogue.versions.version(appliance, version);
  const file = await readVersionFile(parts.blobStore, appliance, version);
  if (gone === undefined || file === undefined) return;
  const only = new Set((await namedChunks(file.manifest, parts.maps)).keys());
  for (const other of await parts.catalogue.versions.versions(appliance)) {
    if (other.version === version || other.state === 'forgotten') continue;
    const otherFile = await readVersionFile(parts.blobStore, appliance, other.version);
    if (otherFile === undefined)
      throw new CollectiveError('local-io', `the manifest of ${appliance}@${other.version} is missing`);
    for (const digest of (await namedChunks(otherFile.manifest, parts.maps)).keys()) only.delete(digest);
  }
  await parts.catalogue.versions.removeLiveChunks(appliance, only);
  await parts.catalogue.versions.setIndexed(appliance, version, false);
};

/** What is not there is left out: a damaged repository still starts, `check` says what is missing. */
const storedSizes = async ({ blobStore, maps }: HealParts, manifest: VersionManifest): Promise<SizedChunk[]> => {
  const sizes: SizedChunk[] = [];
  for (const digest of (await namedChunks(manifest, maps)).keys()) {
    const chunk = await blobStore.readChunk(digest);
    if (chunk === undefined) continue;
    sizes.push({ digest, chunkBytes: chunk.length, plainBytes: checkStoredChunk(chunk).plainBytes });
  }
  return sizes;
};
