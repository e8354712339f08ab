/**
 * Makes the catalogue's index of versions agree with the manifest and state files, which are the truth: a version whose
 * manifest was linked just before a crash gets its row, a version folder without a manifest is nothing, and chunks of
 * versions whose indexing was cut off are indexed. What is found so is made durable before anything is built on it: the
 * crash may have come before the sync of its folder. Callers hold the lock.
 */
import {
  checkStoredChunk,
  CollectiveError,
  type Digest,
  openEnvelope,
  PAYLOAD_TYPES,
  type VersionManifest,
} from '@collective/shared';
import { type Catalogue, type SizedChunk, VERSION_STATES, type VersionRecord } from '../catalogue/catalogue.js';
import { manifestName, promotionName, versionStateName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { grantToMakerAfterCrash } from './maker.js';
import { type MapStore } from './map-store.js';
import { namedChunks } from './version-chunks.js';
import {
  isUnpromoted,
  readStateFile,
  readVersionFile,
  type StateFile,
  storedAppliances,
  storedVersionNumbers,
} from './version-file.js';

export type HealParts = { readonly blobStore: BlobStore; readonly catalogue: Catalogue; readonly maps: MapStore };

/**
 * At the start: everything, the states of versions too. Returns what it could not heal, a sentence each; `check` says
 * more. Nothing that it cannot read is dropped.
 */
export const healCatalogue = async (parts: HealParts): Promise<string[]> => {
  const problems: string[] = [];
  const appliances = new Set([
    ...(await storedAppliances(parts.blobStore)),
    ...(await parts.catalogue.versions.appliances()),
  ]);
  for (const appliance of appliances) {
    await healStates(parts, appliance);
    problems.push(...(await healAppliance(parts, appliance)));
  }
  return problems;
};

/**
 * A catalogue from a backup may not know that a version was ended, and then it would promise chunks that have been
 * collected. A state only grows: nothing becomes live again because its state file is away.
 */
const healStates = async ({ blobStore, catalogue }: HealParts, appliance: string): Promise<void> => {
  for (const { version, state } of await catalogue.versions.versions(appliance)) {
    // Its state file says nothing as long as it has not ended; whether it was promoted says the promotion.
    if (state === 'candidate' && (await healPromotion({ blobStore, catalogue }, appliance, version))) continue;
    const file = await readStateFile(blobStore, appliance, version);
    if (file.state === 'live' || VERSION_STATES.indexOf(file.state) <= VERSION_STATES.indexOf(state)) continue;
    await blobStore.settle(versionStateName(appliance, version));
    await catalogue.versions.setVersionState(appliance, version, file.state, file.since);
  }
};

/** A crash may have come between the promotion, which is the commit, and the row. Whether it is for all now. */
const healPromotion = async (
  { blobStore, catalogue }: Pick<HealParts, 'blobStore' | 'catalogue'>,
  appliance: string,
  version: number,
): Promise<boolean> => {
  const name = promotionName(appliance, version);
  if ((await blobStore.read(name)) === undefined) return false;
  await blobStore.settle(name);
  const { state, since } = await readStateFile(blobStore, appliance, version);
  await catalogue.versions.setVersionState(appliance, version, state, since);
  return true;
};

/**
 * All appliances' new versions, for a collector: what another process has just linked before it died counts. Error: what
 * cannot be read, because nothing may be collected then.
 */
export const healVersions = async (parts: HealParts): Promise<void> => {
  for (const appliance of await storedAppliances(parts.blobStore)) {
    const [problem] = await healAppliance(parts, appliance);
    if (problem !== undefined) throw new CollectiveError('local-io', `${problem}: run check`);
  }
};

/**
 * One appliance: cheap when nothing is amiss (one folder listing and one read per version that has no row). Error with
 * `mustKnowAll`: what keeps a manifest without a row from getting one.
 */
export const healAppliance = async (
  parts: HealParts,
  appliance: string,
  options: { readonly mustKnowAll?: boolean } = {},
): Promise<string[]> => {
  const { blobStore, catalogue } = parts;
  const problems: string[] = [];
  const known = new Map((await catalogue.versions.versions(appliance)).map((record) => [record.version, record]));
  const stored = await storedVersionNumbers(blobStore, appliance);
  for (const version of stored) {
    const record = known.get(version);
    known.delete(version);
    try {
      if (record === undefined) await addRow(parts, appliance, version);
      else if (record.state === 'candidate' && (await healPromotion(parts, appliance, version))) continue;
      else if (record.indexed !== (record.state !== 'forgotten')) await reindex(parts, record);
    } catch (error) {
      if (!(error instanceof CollectiveError)) throw error;
      const problem = `${appliance}@${version}: ${error.message}`;
      if (record === undefined && options.mustKnowAll === true)
        throw new CollectiveError('local-io', `${problem}: run check`, { cause: error });
      problems.push(problem);
    }
  }
  for (const version of known.keys()) problems.push(`${appliance}@${version}: its folder is missing`);
  return problems;
};

const addRow = async (parts: HealParts, appliance: string, version: number): Promise<void> => {
  const file = await readVersionFile(parts.blobStore, appliance, version);
  if (file === undefined) return;
  await parts.blobStore.settle(manifestName(appliance, version));
  const ended = await readStateFile(parts.blobStore, appliance, version);
  if (file.manifest.candidate === true) await parts.blobStore.settle(promotionName(appliance, version));
  const isCandidate = ended.state === 'live' && (await isUnpromoted(parts.blobStore, file));
  const { state, since }: StateFile = isCandidate ? { state: 'candidate', since: 0 } : ended;
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
  if ((await parts.catalogue.versions.lastNumber(appliance)) === undefined)
    await grantToMakerAfterCrash(
      parts.catalogue,
      appliance,
      openEnvelope(file.bytes, { payloadType: PAYLOAD_TYPES.version }),
    );
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

/**
 * Takes what no other version of the appliance names out of the index. It asks the other ones only: of a version that was
 * forgotten in a catalogue that is lost, the pages themselves may have been collected.
 */
export const forgetIndex = async (parts: HealParts, appliance: string, version: number): Promise<void> => {
  const named = new Set<Digest>();
  for (const other of await parts.catalogue.versions.versions(appliance)) {
    if (other.version === version || other.state === 'forgotten') continue;
    const file = await readVersionFile(parts.blobStore, appliance, other.version);
    if (file === undefined)
      throw new CollectiveError('local-io', `the manifest of ${appliance}@${other.version} is missing`);
    for (const digest of (await namedChunks(file.manifest, parts.maps)).keys()) named.add(digest);
  }
  await parts.catalogue.versions.retainLiveChunks(appliance, named);
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
