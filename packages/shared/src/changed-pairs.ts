/**
 * Changed pairs, version 1 (docs/formats/disk-map.md): what travels on publish, on backup and on update.
 *
 *   magic 4 | blockBytes 4 | diskBytes 8 | count 4 | { blockIndex 4 | kind 1 | digest 32 if kind ≥ 2 }*
 *
 * The list is relative to a named state: another map, or nothing (all blocks zero).
 */
import { type BlockIndex, blockIndex } from './brands.js';
import { ByteReader, magicBytes } from './byte-reader.js';
import { DIGEST_BYTES } from './digest.js';
import { type DiskShape, mapShape } from './disk-shape.js';
import { CollectiveError } from './errors.js';
import {
  MAP_KIND,
  type MapColumns,
  type MapEntry,
  columnEntry,
  kindName,
  mapColumns,
  setColumnEntry,
} from './map-page.js';

export type ChangedPair = { readonly blockIndex: BlockIndex; readonly entry: MapEntry };

export const CHANGED_PAIRS_MAX = 2 ** 27;
const HEADER_BYTES = 20;
const PAIR_BYTES_MIN = 5;
const MAGIC = magicBytes('CPL', 1);

/** The pairs of one list, compact: 37 bytes each. Iterate it, or `pairs`, or read the columns. */
export class ChangedPairs {
  /** Of the new state. */
  readonly diskBytes: number;
  readonly blockBytes: number;
  /** Strictly ascending; pair i has the entry i of `columns`. */
  readonly blockIndexes: Uint32Array;
  readonly columns: MapColumns;

  /** Errors: `malformed` when the indexes do not ascend or lie beyond the disk. */
  constructor(shape: DiskShape, blockIndexes: Uint32Array, columns: MapColumns) {
    const { blockCount } = mapShape(shape);
    let before = -1;
    for (const index of blockIndexes) {
      if (index <= before) throw malformed(`block ${index} follows block ${before}`);
      before = index;
    }
    if (before >= blockCount) throw malformed(`block ${before} lies beyond a disk of ${blockCount} blocks`);
    this.diskBytes = shape.diskBytes;
    this.blockBytes = shape.blockBytes;
    this.blockIndexes = blockIndexes;
    this.columns = columns;
  }

  static of(
    shape: DiskShape,
    pairs: readonly { readonly blockIndex: number; readonly entry: MapEntry }[],
  ): ChangedPairs {
    const columns = mapColumns(pairs.length);
    pairs.forEach(({ entry }, at) => setColumnEntry(columns, at, entry));
    return new ChangedPairs(
      shape,
      Uint32Array.from(pairs, (pair) => pair.blockIndex),
      columns,
    );
  }

  get count(): number {
    return this.blockIndexes.length;
  }

  get length(): number {
    return this.blockIndexes.length;
  }

  /** The pairs as objects, made while they are walked. */
  get pairs(): Iterable<ChangedPair> & { readonly length: number } {
    return this;
  }

  *[Symbol.iterator](): IterableIterator<ChangedPair> {
    for (const [at, index] of this.blockIndexes.entries()) {
      yield { blockIndex: blockIndex(index), entry: columnEntry(this.columns, at) };
    }
  }
}

export const encodeChangedPairs = (list: ChangedPairs): Buffer => {
  const { kinds, digests } = list.columns;
  const digestCount = kinds.reduce((count, kind) => count + (kind >= MAP_KIND.public ? 1 : 0), 0);
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + list.count * PAIR_BYTES_MIN + digestCount * DIGEST_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(list.blockBytes, 4);
  bytes.writeBigUInt64LE(BigInt(list.diskBytes), 8);
  bytes.writeUInt32LE(list.count, 16);
  let at = HEADER_BYTES;
  list.blockIndexes.forEach((index, pair) => {
    const kind = kinds[pair] ?? 0;
    at = bytes.writeUInt32LE(index, at);
    at = bytes.writeUInt8(kind, at);
    if (kind >= MAP_KIND.public) at += digests.copy(bytes, at, pair * DIGEST_BYTES, (pair + 1) * DIGEST_BYTES);
  });
  return bytes;
};

/**
 * The list; takes at most 8 times the memory of `bytes`. Errors: `malformed`, `unknown-format`, `too-large` (more
 * than 2^27 pairs).
 */
export const decodeChangedPairs = (bytes: Uint8Array): ChangedPairs => {
  const reader = new ByteReader(bytes, 'changed pairs');
  reader.magic(MAGIC);
  const blockBytes = reader.u32();
  const diskBytes = reader.u64();
  const count = reader.u32();
  if (count > CHANGED_PAIRS_MAX)
    throw new CollectiveError('too-large', `changed pairs: ${count}, at most 2^27 are allowed`);
  if (count * PAIR_BYTES_MIN > reader.bytesLeft)
    throw reader.error(`${count} pairs do not fit into ${reader.bytesLeft} bytes`);
  const blockIndexes = new Uint32Array(count);
  const columns = mapColumns(count);
  for (let pair = 0; pair < count; pair += 1) {
    blockIndexes[pair] = reader.u32();
    const kind = reader.u8();
    if (kind > MAP_KIND.private) throw reader.error(`kind ${kind} is not known`);
    columns.kinds[pair] = kind;
    if (kind >= MAP_KIND.public) reader.take(DIGEST_BYTES).copy(columns.digests, pair * DIGEST_BYTES);
  }
  reader.end();
  return new ChangedPairs({ diskBytes, blockBytes }, blockIndexes, columns);
};

/** For messages: "12 public, 3 zero". */
export const describeChangedPairs = (list: ChangedPairs): string => {
  const counts = new Map<number, number>();
  for (const kind of list.columns.kinds) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return Array.from(counts, ([kind, count]) => `${count} ${kindName(kind)}`).join(', ') || 'no change';
};

const malformed = (message: string): CollectiveError => new CollectiveError('malformed', `changed pairs: ${message}`);
