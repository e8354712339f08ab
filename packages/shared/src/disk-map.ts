/**
 * A disk map in memory (docs/formats/disk-map.md): for each block its kind and digest, 33 bytes a block, in two typed
 * arrays; never an object per block, because a disk of 1 TiB has 16 million blocks. Pages exist only while they are
 * read (`fromPages`) or written (`build`).
 *
 * One disk state has one root. `build` writes the canonical form and `fromPages` refuses everything else: a page
 * whose blocks are all zero or all inherit, a public entry with the digest of the zero block, a wrong level or count.
 */
import { type BlockIndex, type Digest } from './brands.js';
import { ChangedPairs } from './changed-pairs.js';
import { DIGEST_BYTES, digestBytes, digestFromBytes, sha256, sha256Bytes, zeroBlockDigest } from './digest.js';
import { type DiskShape, MAP_FANOUT, mapShape, pageEntryCount } from './disk-shape.js';
import { CollectiveError } from './errors.js';
import {
  MAP_KIND,
  type MapColumns,
  type MapEntry,
  type MapKind,
  columnEntry,
  decodePageColumns,
  encodePageColumns,
  kindName,
  mapColumns,
  setColumnEntry,
} from './map-page.js';

export type BuiltMap = {
  readonly root: Digest;
  /** Every page of the map by its digest, the root among them; equal pages once. */
  readonly pages: ReadonlyMap<Digest, Buffer>;
};

/** The blocks of a map lie in one buffer of at most 4 GiB. */
const MAP_BLOCKS_MAX = 2 ** 27;

export class DiskMap {
  #shape: DiskShape;
  #columns: MapColumns;

  private constructor(shape: DiskShape, columns: MapColumns) {
    this.#shape = shape;
    this.#columns = columns;
  }

  /** Blocks of the disk and levels of its map (1 when the root is a leaf). */
  static mapShape(shape: DiskShape): { readonly blockCount: number; readonly levels: number } {
    return mapShape(shape);
  }

  /** All blocks zero, or all *inherit*. Errors: `malformed` for an impossible size, `too-large` above 2^27 blocks. */
  static empty(shape: DiskShape, kind: 'zero' | 'inherit' = 'zero'): DiskMap {
    const { blockCount } = mapShape(shape);
    if (blockCount > MAP_BLOCKS_MAX) {
      throw new CollectiveError('too-large', `disk map: ${blockCount} blocks, at most 2^27 fit into memory`);
    }
    const columns = mapColumns(blockCount);
    columns.kinds.fill(MAP_KIND[kind]);
    return new DiskMap({ diskBytes: shape.diskBytes, blockBytes: shape.blockBytes }, columns);
  }

  /**
   * The map whose root page is `root`. `pages` gives a page's bytes; each is checked against its digest before an
   * entry of it is used. Errors: `block-missing` (data.digest: the page that `pages` did not have), `digest-mismatch`,
   * `malformed`, `unknown-format`, `too-large`. `inheritAllowed` is for maps with a base only.
   */
  static fromPages(
    options: DiskShape & {
      readonly root: Digest;
      readonly pages: (digest: Digest) => Uint8Array | undefined;
      readonly inheritAllowed?: boolean;
    },
  ): DiskMap {
    const map = DiskMap.empty(options);
    const { levels } = mapShape(options);
    const inheritAllowed = options.inheritAllowed ?? false;

    const readSubtree = (digest: Digest, level: number, position: number): void => {
      const bytes = options.pages(digest);
      if (bytes === undefined) {
        throw new CollectiveError('block-missing', `disk map: page ${digest} is not at hand`, { data: { digest } });
      }
      const columns = checkedPage(bytes, { ...options, digest, level, position, inheritAllowed });
      if (level === 0) return map.#takeLeaf(columns, position);
      columns.kinds.forEach((kind, index) => {
        const child = position * MAP_FANOUT + index;
        if (kind === MAP_KIND.public) readSubtree(pageDigestAt(columns, index), level - 1, child);
        else if (kind === MAP_KIND.inherit) map.#fillSubtree(level - 1, child, MAP_KIND.inherit);
      });
    };
    readSubtree(options.root, levels - 1, 0);
    return map;
  }

  get diskBytes(): number {
    return this.#shape.diskBytes;
  }

  get blockBytes(): number {
    return this.#shape.blockBytes;
  }

  get blockCount(): number {
    return this.#columns.kinds.length;
  }

  /** Per block a number of MAP_KIND. Not to be written to; another array after `apply` to a disk of another size. */
  get kinds(): Uint8Array {
    return this.#columns.kinds;
  }

  /** Per block 32 bytes, zeroes where it has no digest. Not to be written to, like `kinds`. */
  get digestBytes(): Buffer {
    return this.#columns.digests;
  }

  kindAt(index: BlockIndex | number): MapKind {
    this.#assertIndex(index);
    return kindName(this.kinds[index] ?? MAP_KIND.zero);
  }

  /** Undefined for a block that is zero or inherits. */
  digestAt(index: BlockIndex | number): Digest | undefined {
    this.#assertIndex(index);
    return (this.kinds[index] ?? 0) < MAP_KIND.public
      ? undefined
      : digestFromBytes(this.digestBytes.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES));
  }

  entryAt(index: BlockIndex | number): MapEntry {
    this.#assertIndex(index);
    return columnEntry(this.#columns, index);
  }

  /** The public digest of the zero block is taken as *zero*, so that one state keeps one root. */
  set(index: BlockIndex | number, entry: MapEntry): void {
    this.#assertIndex(index);
    const isZero = entry.kind === 'public' && entry.digest === zeroBlockDigest(this.blockBytes);
    setColumnEntry(this.#columns, index, isZero ? { kind: 'zero' } : entry);
  }

  clone(): DiskMap {
    return new DiskMap(this.#shape, { kinds: this.kinds.slice(), digests: Buffer.from(this.digestBytes) });
  }

  /** The pages in canonical form. Takes about one second and 150 MB for each 4 million blocks that have a digest. */
  build(): BuiltMap {
    const pages = new Map<Digest, Buffer>();
    const { levels } = mapShape(this.#shape);
    let columns = this.#columns;
    for (let level = 0; level < levels - 1; level += 1) columns = buildLevel(columns, level, pages);
    const rootPage = encodePageColumns(levels - 1, columns);
    const root = sha256(rootPage);
    pages.set(root, rootPage);
    return { root, pages };
  }

  /**
   * What turns `older` (undefined: all blocks zero) into this state. Blocks beyond the older disk's end count as
   * zero. Errors: `bad-request` when the block sizes differ (there is no such list).
   */
  changesSince(older: DiskMap | undefined): ChangedPairs {
    if (older !== undefined && older.blockBytes !== this.blockBytes) {
      throw new CollectiveError(
        'bad-request',
        `disk map: no list leads from blocks of ${older.blockBytes} bytes to blocks of ${this.blockBytes}`,
      );
    }
    const changed = this.#changedIndexes(older);
    const columns = mapColumns(changed.length);
    changed.forEach((index, at) => {
      columns.kinds[at] = this.kinds[index] ?? MAP_KIND.zero;
      this.digestBytes.copy(columns.digests, at * DIGEST_BYTES, index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES);
    });
    return new ChangedPairs(this.#shape, changed, columns);
  }

  /**
   * Turns this map, in place, into the state that the list describes, and gives it back; the disk takes the size in
   * the list. Errors: `malformed` when the block sizes differ; the map is unchanged then.
   */
  apply(pairs: ChangedPairs): this {
    if (pairs.blockBytes !== this.blockBytes) {
      throw malformed(
        `a list for blocks of ${pairs.blockBytes} bytes cannot be applied to blocks of ${this.blockBytes}`,
      );
    }
    if (pairs.diskBytes !== this.diskBytes) this.#resize(pairs.diskBytes);
    const zeroDigest = digestBytes(zeroBlockDigest(this.blockBytes));
    const { kinds, digests } = this.#columns;
    pairs.blockIndexes.forEach((index, at) => {
      const digest = pairs.columns.digests.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES);
      const kind = pairs.columns.kinds[at] ?? MAP_KIND.zero;
      const isZero = kind === MAP_KIND.public && digest.equals(zeroDigest);
      kinds[index] = isZero ? MAP_KIND.zero : kind;
      if (kind < MAP_KIND.public || isZero) digests.fill(0, index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES);
      else digest.copy(digests, index * DIGEST_BYTES);
    });
    return this;
  }

  #resize(diskBytes: number): void {
    const resized = DiskMap.empty({ diskBytes, blockBytes: this.blockBytes });
    const kept = Math.min(this.blockCount, resized.blockCount);
    resized.kinds.set(this.kinds.subarray(0, kept));
    this.digestBytes.copy(resized.digestBytes, 0, 0, kept * DIGEST_BYTES);
    this.#shape = resized.#shape;
    this.#columns = resized.#columns;
  }

  #changedIndexes(older: DiskMap | undefined): Uint32Array {
    const changed = new Uint32Array(this.blockCount);
    const olderCount = older?.blockCount ?? 0;
    let count = 0;
    for (let index = 0; index < this.blockCount; index += 1) {
      const kind = this.kinds[index] ?? MAP_KIND.zero;
      const olderKind = index < olderCount ? older?.kinds[index] : MAP_KIND.zero;
      if (kind === olderKind && (kind < MAP_KIND.public || this.#hasDigestOf(older, index))) continue;
      changed[count] = index;
      count += 1;
    }
    return changed.slice(0, count);
  }

  #hasDigestOf(older: DiskMap | undefined, index: number): boolean {
    const from = index * DIGEST_BYTES;
    return (
      older !== undefined &&
      this.digestBytes.compare(older.digestBytes, from, from + DIGEST_BYTES, from, from + DIGEST_BYTES) === 0
    );
  }

  #takeLeaf(columns: MapColumns, position: number): void {
    const firstBlock = position * MAP_FANOUT;
    this.kinds.set(columns.kinds, firstBlock);
    columns.digests.copy(this.digestBytes, firstBlock * DIGEST_BYTES);
  }

  #fillSubtree(level: number, position: number, kind: number): void {
    const covered = MAP_FANOUT ** (level + 1);
    this.kinds.fill(kind, position * covered, Math.min((position + 1) * covered, this.blockCount));
  }

  #assertIndex(index: number): void {
    if (!Number.isInteger(index) || index < 0 || index >= this.blockCount) {
      throw new RangeError(`block ${index} lies beyond a disk of ${this.blockCount} blocks`);
    }
  }
}

/**
 * The entries of a page that belongs at this place of this disk. Errors: `digest-mismatch`, `unknown-format`, `malformed`
 * for what is not canonical: a wrong level or count, a page that must not exist, inherit without a base, a public entry
 * with the digest of the zero block.
 */
export const checkedPage = (
  bytes: Uint8Array,
  page: DiskShape & {
    readonly digest: Digest;
    /** 0 is a leaf. */
    readonly level: number;
    readonly position: number;
    readonly inheritAllowed: boolean;
  },
): MapColumns => {
  const { digest, position, blockBytes } = page;
  const found = sha256(bytes);
  if (found !== digest) {
    throw new CollectiveError('digest-mismatch', `disk map: page ${digest} has the digest ${found}`, {
      data: { digest },
    });
  }
  const { blockCount, levels } = mapShape(page);
  const { level, columns } = decodePageColumns(bytes);
  const count = pageEntryCount(blockCount, page);
  if (level !== page.level || columns.kinds.length !== count) {
    throw malformed(
      `page ${digest} has level ${level} and ${columns.kinds.length} entries, expected ${page.level} and ${count}`,
    );
  }
  if (level < levels - 1 && uniformKind(columns.kinds) !== undefined) {
    throw malformed(`page ${digest} must not exist: all its blocks are ${kindName(columns.kinds[0] ?? 0)}`);
  }
  if (!page.inheritAllowed && columns.kinds.includes(MAP_KIND.inherit)) {
    throw malformed(`page ${digest} inherits, but the map has no base`);
  }
  if (level === 0) refuseZeroDigest(columns, position * MAP_FANOUT, digestBytes(zeroBlockDigest(blockBytes)));
  return columns;
};

const refuseZeroDigest = ({ kinds, digests }: MapColumns, firstBlock: number, zeroDigest: Buffer): void => {
  kinds.forEach((kind, index) => {
    const at = index * DIGEST_BYTES;
    if (kind === MAP_KIND.public && digests.compare(zeroDigest, 0, DIGEST_BYTES, at, at + DIGEST_BYTES) === 0) {
      throw malformed(`block ${firstBlock + index} is all zero, but has a digest`);
    }
  });
};

/** The kind that needs no page (zero or inherit), when all entries have it. */
const uniformKind = (kinds: Uint8Array): number | undefined => {
  const first = kinds[0] ?? MAP_KIND.zero;
  return first < MAP_KIND.public && kinds.every((kind) => kind === first) ? first : undefined;
};

/** Writes the pages of one level and gives the entries of the level above. */
const buildLevel = (columns: MapColumns, level: number, pages: Map<Digest, Buffer>): MapColumns => {
  const above = mapColumns(Math.ceil(columns.kinds.length / MAP_FANOUT));
  for (let position = 0; position < above.kinds.length; position += 1) {
    const from = position * MAP_FANOUT;
    const kinds = columns.kinds.subarray(from, from + MAP_FANOUT);
    const uniform = uniformKind(kinds);
    if (uniform !== undefined) {
      above.kinds[position] = uniform;
      continue;
    }
    const page = encodePageColumns(level, { kinds, digests: columns.digests.subarray(from * DIGEST_BYTES) });
    const digest = sha256Bytes(page);
    pages.set(digestFromBytes(digest), page);
    above.kinds[position] = MAP_KIND.public;
    digest.copy(above.digests, position * DIGEST_BYTES);
  }
  return above;
};

/** The digest of entry `index`, which has one. */
export const pageDigestAt = (columns: MapColumns, index: number): Digest =>
  digestFromBytes(columns.digests.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES));

const malformed = (message: string): CollectiveError => new CollectiveError('malformed', `disk map: ${message}`);
