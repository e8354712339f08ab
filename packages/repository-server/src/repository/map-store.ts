/**
 * Disk maps out of the blob store: page by page, checked against their digests, and whole maps kept in a bounded cache
 * (a map is immutable under its root). Nobody writes to a map that comes from here.
 */
import {
  CollectiveError,
  decodeChunk,
  decodePageColumns,
  DIGEST_BYTES,
  type Digest,
  digestFromBytes,
  DiskMap,
  type DiskShape,
  MAP_KIND,
  MAP_PAGE_BYTES_MAX,
  mapShape,
} from '@collective/shared';
import { type BlobStore } from '../storage/blob-store.js';
import { forEachAtOnce } from '../storage/durable-file.js';

const PAGES_AT_ONCE = 16;
/** Lists of pages that are kept between requests: a new version's map is asked for by everybody at the same time. */
const LISTS_MAX = 4;
/** As long as one answer may be. */
const LIST_BYTES_MAX = 4 << 20;
const BYTES_PER_BLOCK = 33;

export type MapRoot = DiskShape & { readonly root: Digest | null };
export type StoredPage = {
  readonly digest: Digest;
  readonly level: number;
  readonly position: number;
  readonly chunk: Buffer;
};

export class MapStore {
  readonly #blobStore: BlobStore;
  readonly #limits: { readonly diskBlocksMax: number; readonly mapCacheBytesMax: number };
  /** In the order of use, the last one newest. */
  readonly #loaded = new Map<string, DiskMap>();
  #loadedBytes = 0;
  /** By root, shape and lowest level, the last one used newest. Their pages were checked, and are immutable under the root. */
  readonly #lists = new Map<string, readonly StoredPage[]>();

  constructor(blobStore: BlobStore, limits: { readonly diskBlocksMax: number; readonly mapCacheBytesMax: number }) {
    this.#blobStore = blobStore;
    this.#limits = limits;
  }

  /** Errors: `too-large` for more blocks than the server allows, `malformed` for an impossible size. */
  checkShape(shape: DiskShape): void {
    const { blockCount } = mapShape(shape);
    if (blockCount > this.#limits.diskBlocksMax) {
      throw new CollectiveError(
        'too-large',
        `a disk of ${blockCount} blocks; this server takes at most ${this.#limits.diskBlocksMax}`,
      );
    }
  }

  /** The map, not to be written to. Errors: `block-missing`, and those of damaged pages. */
  async load(map: MapRoot): Promise<DiskMap> {
    this.checkShape(map);
    if (map.root === null) return DiskMap.empty(map);
    const key = `${map.root} ${map.diskBytes} ${map.blockBytes}`;
    const known = this.#loaded.get(key);
    if (known !== undefined) {
      this.#loaded.delete(key);
      this.#loaded.set(key, known);
      return known;
    }
    const pages = new Map<Digest, Buffer>();
    await this.#walk(
      { ...map, root: map.root },
      { lowestLevel: 0 },
      ({ digest, page }) => void pages.set(digest, page),
    );
    const loaded = DiskMap.fromPages({ ...map, root: map.root, pages: (digest) => pages.get(digest) });
    this.#keep(key, loaded);
    return loaded;
  }

  /** Stored pages from the root down to `lowestLevel`; the root is always among them; equal pages once. */
  async storedPages(
    map: DiskShape & { readonly root: Digest },
    options: { readonly lowestLevel: number },
  ): Promise<StoredPage[]> {
    this.checkShape(map);
    const found: StoredPage[] = [];
    await this.#walk(map, options, ({ page: _page, ...stored }) => void found.push(stored));
    return found.sort((a, b) => b.level - a.level || a.position - b.position);
  }

  /**
   * The same, to be sent to somebody: of the maps that were asked for last from memory. So it says nothing of what is stored now, and a commit or a
   * collection may not go by it.
   */
  async pagesToSend(
    map: DiskShape & { readonly root: Digest },
    options: { readonly lowestLevel: number },
  ): Promise<readonly StoredPage[]> {
    const key = `${map.root} ${map.diskBytes} ${map.blockBytes} ${options.lowestLevel}`;
    const found = this.#lists.get(key) ?? (await this.storedPages(map, options));
    this.#lists.delete(key);
    if (found.reduce((sum, { chunk }) => sum + chunk.length, 0) <= LIST_BYTES_MAX) this.#lists.set(key, found);
    for (const oldest of this.#lists.keys()) {
      if (this.#lists.size <= LISTS_MAX) break;
      this.#lists.delete(oldest);
    }
    return found;
  }

  /** The stored leaves at these positions, those that exist, in the order asked. */
  async storedLeaves(map: DiskShape & { readonly root: Digest }, positions: readonly number[]): Promise<StoredPage[]> {
    this.checkShape(map);
    const found: StoredPage[] = [];
    for (const position of new Set(positions)) {
      const leaf = await this.#leafAt(map, position);
      if (leaf !== undefined) found.push(leaf);
    }
    return found;
  }

  async #leafAt(map: DiskShape & { readonly root: Digest }, position: number): Promise<StoredPage | undefined> {
    const { blockCount, levels } = mapShape(map);
    if (position * 128 >= blockCount) throw new CollectiveError('bad-request', `there is no leaf ${position}`);
    let digest = map.root;
    for (let level = levels - 1; ; level -= 1) {
      const { page, chunk } = await this.#readPage(digest);
      if (level === 0) return { digest, level, position, chunk };
      const child = Math.floor(position / 128 ** (level - 1)) % 128;
      const { columns } = decodePageColumns(page);
      if (columns.kinds[child] !== MAP_KIND.public) return undefined;
      digest = digestFromBytes(columns.digests.subarray(child * DIGEST_BYTES, (child + 1) * DIGEST_BYTES));
    }
  }

  /** Breadth first, each distinct page once. */
  async #walk(
    map: DiskShape & { readonly root: Digest },
    { lowestLevel }: { readonly lowestLevel: number },
    visit: (page: StoredPage & { readonly page: Buffer }) => void,
  ): Promise<void> {
    const { levels } = mapShape(map);
    let wanted = [{ digest: map.root, position: 0 }];
    const seen = new Set<Digest>();
    for (let level = levels - 1; level >= 0 && wanted.length > 0; level -= 1) {
      const below: { digest: Digest; position: number }[] = [];
      const goDown = level > lowestLevel;
      await forEachAtOnce(wanted, PAGES_AT_ONCE, async ({ digest, position }) => {
        const { page, chunk } = await this.#readPage(digest);
        visit({ digest, level, position, chunk, page });
        if (!goDown || level === 0) return;
        for (const child of childPages(page, position)) {
          if (seen.has(child.digest)) continue;
          seen.add(child.digest);
          below.push(child);
        }
      });
      wanted = below;
    }
  }

  async #readPage(digest: Digest): Promise<{ readonly page: Buffer; readonly chunk: Buffer }> {
    const chunk = await this.#blobStore.readChunk(digest);
    if (chunk === undefined) {
      throw new CollectiveError('block-missing', `the map page ${digest} is not in the repository`, {
        data: { digest },
      });
    }
    return { chunk, page: decodeChunk(chunk, { digest, plainBytesMax: MAP_PAGE_BYTES_MAX }) };
  }

  #keep(key: string, map: DiskMap): void {
    const bytes = map.blockCount * BYTES_PER_BLOCK;
    if (bytes > this.#limits.mapCacheBytesMax || this.#loaded.has(key)) return;
    this.#loaded.set(key, map);
    this.#loadedBytes += bytes;
    for (const [oldKey, old] of this.#loaded) {
      if (this.#loadedBytes <= this.#limits.mapCacheBytesMax) break;
      this.#loaded.delete(oldKey);
      this.#loadedBytes -= old.blockCount * BYTES_PER_BLOCK;
    }
  }
}

const childPages = (page: Buffer, position: number): { digest: Digest; position: number }[] => {
  const { columns } = decodePageColumns(page);
  const children: { digest: Digest; position: number }[] = [];
  columns.kinds.forEach((kind, index) => {
    if (kind !== MAP_KIND.public) return;
    const digest = digestFromBytes(columns.digests.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES));
    children.push({ digest, position: position * 128 + index });
  });
  return children;
};
