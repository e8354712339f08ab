/** The manifest and state files of versions in the blob store: what is there, and whether it can be read. */
import {
  decodeVersionManifest,
  type Digest,
  openEnvelope,
  PAYLOAD_TYPES,
  type VersionManifest,
} from '@collective/shared';
import { VERSION_STATES, type VersionState } from '../catalogue/catalogue.js';
import {
  applianceFolder,
  APPLIANCES_FOLDER,
  isAccountName,
  manifestName,
  promotionName,
  versionStateName,
} from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';

export type VersionFile = { readonly manifest: VersionManifest; readonly digest: Digest; readonly bytes: Buffer };
export type StateFile = { readonly state: VersionState; readonly since: number };

const NUMBER = /^[1-9][0-9]{0,9}$/;

/** Appliances that have a folder, sorted. */
export const storedAppliances = async (blobStore: BlobStore): Promise<string[]> =>
  (await blobStore.list(APPLIANCES_FOLDER)).filter(isAccountName);

/** Numbers of the version folders of an appliance, ascending; a folder may lack its manifest. */
export const storedVersionNumbers = async (blobStore: BlobStore, appliance: string): Promise<number[]> =>
  (await blobStore.list(applianceFolder(appliance)))
    .filter((name) => NUMBER.test(name))
    .map(Number)
    .sort((a, b) => a - b);

/** Signatures are not checked here. Undefined when there is no manifest. Errors: those of a damaged file. */
export const readVersionFile = async (
  blobStore: BlobStore,
  appliance: string,
  version: number,
): Promise<VersionFile | undefined> => {
  const bytes = await blobStore.read(manifestName(appliance, version));
  if (bytes === undefined) return undefined;
  const envelope = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.version });
  return { manifest: decodeVersionManifest(envelope.payload), digest: envelope.digest, bytes };
};

/**
 * For named people only: the manifest says so, and no promotion is there. A promotion whose sync was cut off by a crash
 * counts once it has been settled; see `healPromotion`.
 */
export const isUnpromoted = async (blobStore: BlobStore, { manifest }: VersionFile): Promise<boolean> =>
  manifest.candidate === true &&
  (await blobStore.read(promotionName(manifest.appliance, manifest.version))) === undefined;

/** `live` since 0 when there is no state file. An unreadable one keeps the version's blocks: `withdrawn` since ever. */
export const readStateFile = async (blobStore: BlobStore, appliance: string, version: number): Promise<StateFile> => {
  const bytes = await blobStore.read(versionStateName(appliance, version));
  if (bytes === undefined) return { state: 'live', since: 0 };
  const [word, since] = bytes.toString('utf8').trim().split(' ');
  const state = VERSION_STATES.find((known) => known === word);
  if (state === undefined || !/^[0-9]{1,15}$/.test(since ?? '')) {
    return { state: 'withdrawn', since: Number.MAX_SAFE_INTEGER };
  }
  return { state, since: Number(since) };
};

/** One line: `withdrawn 1700000000`. */
export const writeStateFile = async (
  blobStore: BlobStore,
  appliance: string,
  version: number,
  { state, since }: StateFile,
): Promise<void> => {
  await blobStore.replace(versionStateName(appliance, version), Buffer.from(`${state} ${since}\n`, 'utf8'));
};
