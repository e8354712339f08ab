/**
 * A repository as the routes see it: the two seams, the trust chain, the heads, the maps. It holds no state of its own
 * that another server over the same seams would miss.
 */
import { type Digest, type SigningKey, Turns } from '@collective/shared';
import { type Catalogue } from '../catalogue/catalogue.js';
import { type Clock } from '../clock.js';
import { type Limits } from '../limits.js';
import { type BlobStore } from '../storage/blob-store.js';
import { healCatalogue } from './heal-catalogue.js';
import { healSubscriptions } from './heal-subscriptions.js';
import { HeadsSigner } from './heads-signer.js';
import { MapStore } from './map-store.js';
import { type Retention } from './retention-file.js';
import { SnapshotIndexMemory } from './snapshot-index-memory.js';
import { TrustStore } from './trust-store.js';

export type ServerKeys = {
  readonly heads: SigningKey;
  /** 32 bytes: makes the salt of accounts that do not exist. */
  readonly nameSecret: Buffer;
};

export type RepositoryParts = {
  readonly blobStore: BlobStore;
  readonly catalogue: Catalogue;
  readonly keys: ServerKeys;
  readonly limits: Limits;
  readonly clock: Clock;
  /** What the administrator has set, as of now; absent or undefined: what the limits say. Errors: `malformed`. */
  readonly readRetention?: () => Promise<Retention | undefined>;
};

export type Repository = RepositoryParts & {
  readonly identity: Digest;
  readonly trust: TrustStore;
  readonly heads: HeadsSigner;
  readonly maps: MapStore;
  /**
   * Parts and the commit, by upload: two parts at one offset would mix in the file. Within this process: others do not
   * serve the folder.
   */
  readonly snapshotUploads: Turns;
  readonly snapshotIndexes: SnapshotIndexMemory;
  /** What could not be healed at the start, a sentence each. */
  readonly problems: readonly string[];
};

/**
 * Opens the trust chain, makes the catalogue agree with the manifests and signs the heads if they are behind: what a
 * crash between the manifest and the rest left undone. Errors: `not-found`, and those of damaged trust or heads.
 */
export const assembleRepository = async (parts: RepositoryParts): Promise<Repository> => {
  const { blobStore, catalogue, keys, limits, clock } = parts;
  const trust = await TrustStore.open(blobStore);
  const maps = new MapStore(blobStore, limits);
  const heads = new HeadsSigner({
    blobStore,
    catalogue,
    trust,
    key: keys.heads,
    clock,
    headsSeconds: limits.headsSeconds,
  });
  const problems = await catalogue.exclusively(async () => {
    const found = await healCatalogue({ blobStore, catalogue, maps });
    found.push(...(await healSubscriptions({ blobStore, catalogue })));
    await heads.signIfNeeded();
    return found;
  });
  return {
    ...parts,
    identity: trust.identity,
    trust,
    heads,
    maps,
    snapshotUploads: new Turns(),
    snapshotIndexes: new SnapshotIndexMemory({ bytesMax: limits.snapshotIndexBytesMax }),
    problems,
  };
};
