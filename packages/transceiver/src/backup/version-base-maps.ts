/**
 * Where the blocks of a user disk inherit from: the initial user disk of the version that wrote it, most often, else of
 * another version of the appliance. Whichever it is, it is known by its root, which a device of the person has signed.
 */
import {
  CollectiveError,
  DiskMap,
  MAP_PAGE_BYTES_MAX,
  decodeChunk,
  hasCode,
  isDigest,
  type Digest,
} from '@collective/shared';
import { loadDiskMap } from '../agent/disk-maps.js';
import type { ObjectCache } from '../agent/object-cache.js';
import type { TrustClient, TrustSource } from '../agent/trust-client.js';
import type { RepositoryClient } from '../repository/repository-client.js';
import type { BaseMaps } from './restore.js';

/** Versions that are looked through for an initial disk that is not the writing version's own. */
const VERSIONS_TRIED_MAX = 64;
/** Pages of a disk of 32 GiB in blocks of 16 KiB, and some. */
const PAGES_MAX = 20_000;

/** As a Session has them. */
export type VersionSource = {
  readonly trust: Pick<TrustClient, 'version'>;
  readonly client: Pick<RepositoryClient, 'call'>;
  source(): TrustSource;
};

export class VersionBaseMaps implements BaseMaps {
  readonly #session: VersionSource;
  readonly #objects: ObjectCache;

  constructor(session: VersionSource, objects: ObjectCache) {
    this.#session = session;
    this.#objects = objects;
  }

  async find(wanted: Parameters<BaseMaps['find']>[0]): Promise<{ readonly version: number; readonly map: DiskMap }> {
    const { appliance, disk, root } = wanted;
    const { trust, client } = this.#session;
    for await (const version of this.#order(wanted)) {
      const verified = await trust.version(appliance, version, this.#session.source()).catch((error: unknown) => {
        // A version that is withdrawn, or that nobody may have signed: another one may begin with the same disk.
        if (hasCode(error, 'not-found') || hasCode(error, 'untrusted')) return undefined;
        throw error;
      });
      const found = verified?.manifest.disks.find(
        (one) =>
          one.kind === 'user' &&
          one.root === root &&
          one.diskBytes === disk.diskBytes &&
          one.blockBytes === disk.blockBytes,
      );
      if (verified === undefined || found === undefined) continue;
      const { manifest } = verified;
      const load = { manifest, disk: found, objects: this.#objects, client };
      const map = await loadDiskMap(load).catch((error: unknown) => {
        if (hasCode(error, 'not-found')) return undefined; // deleted there: its pages are kept for the snapshot
        throw error;
      });
      if (map !== undefined) return { version, map };
    }
    // Whoever knows a public digest may read that chunk, whatever became of the version.
    return { version: wanted.version, map: await mapByPages(this.#session, this.#objects, { ...disk, root }) };
  }

  /** The writing one first, then the others, the newest first. */
  async *#order(of: { readonly appliance: string; readonly version: number }): AsyncGenerator<number> {
    yield of.version;
    const listed = await this.#session.client.call('versions', { params: { name: of.appliance } });
    const others = listed.map(({ version }) => version).filter((version) => version !== of.version);
    yield* others.sort((a, b) => b - a).slice(0, VERSIONS_TRIED_MAX);
  }
}

/** Errors: `block-missing`, those of the network and of damaged pages. */
async function mapByPages(
  session: VersionSource,
  objects: ObjectCache,
  disk: { readonly diskBytes: number; readonly blockBytes: number; readonly root: Digest },
): Promise<DiskMap> {
  for (let fetched = 0; fetched < PAGES_MAX; fetched += 1) {
    try {
      return DiskMap.fromPages({ ...disk, pages: (digest) => objects.get('page', digest) });
    } catch (error) {
      const digest = hasCode(error, 'block-missing') ? error.data['digest'] : undefined;
      if (typeof digest !== 'string' || !isDigest(digest)) throw error;
      const chunk = await session.client.call('chunk', { params: { digest } });
      await objects.put('page', [[digest, decodeChunk(chunk, { digest, plainBytesMax: MAP_PAGE_BYTES_MAX })]]);
    }
  }
  throw new CollectiveError('too-large', `The map ${disk.root} has more than ${PAGES_MAX} pages.`);
}
