/**
 * Map page, version 1 (docs/formats/disk-map.md).
 *
 *   magic 4 | level 1 | reserved 1 | count 2 | kinds ceil(count/4) | digests 32 × (entries of kind public or private)
 *
 * The codec works on columns (a kind per byte, 32 digest bytes per entry), because a map of a large disk is kept that
 * way; `encodeMapPage` and `decodeMapPage` are the same codec for callers that want one object per entry.
 */
import { type Digest } from './brands.js';
import { ByteReader, magicBytes } from './byte-reader.js';
import { DIGEST_BYTES, digestBytes, digestFromBytes } from './digest.js';
import { MAP_FANOUT } from './disk-shape.js';

export const MAP_KINDS = ['inherit', 'zero', 'public', 'private'] as const;
export type MapKind = (typeof MAP_KINDS)[number];
/** The numbers that stand for the kinds, in pages, in changed pairs and in `DiskMap.kinds`. */
export const MAP_KIND = { inherit: 0, zero: 1, public: 2, private: 3 } as const satisfies Record<MapKind, number>;

export type MapEntry =
  { readonly kind: 'inherit' | 'zero' } | { readonly kind: 'public' | 'private'; readonly digest: Digest };

export type MapPage = { readonly level: number; readonly entries: readonly MapEntry[] };

/** Entry i: `kinds[i]`, and for kinds public and private the digest at `digests[32 × i]` (else 32 unused bytes). */
export type MapColumns = { readonly kinds: Uint8Array; readonly digests: Buffer };

export const MAP_LEVEL_MAX = 4;
/** 4,136: header, kinds and digests of a page whose 128 entries all have one. */
export const MAP_PAGE_BYTES_MAX = 8 + MAP_FANOUT / 4 + MAP_FANOUT * DIGEST_BYTES;

const MAGIC = magicBytes('CDM', 1);

export const kindName = (kind: number): MapKind => {
  const name = MAP_KINDS[kind];
  if (name === undefined) throw new RangeError(`${kind} is not the number of a kind`);
  return name;
};

export const mapColumns = (count: number): MapColumns => ({
  kinds: new Uint8Array(count),
  digests: Buffer.alloc(count * DIGEST_BYTES),
});

export const setColumnEntry = (columns: MapColumns, index: number, entry: MapEntry): void => {
  columns.kinds[index] = MAP_KIND[entry.kind];
  const at = index * DIGEST_BYTES;
  if (entry.kind === 'public' || entry.kind === 'private') digestBytes(entry.digest).copy(columns.digests, at);
  else columns.digests.fill(0, at, at + DIGEST_BYTES);
};

export const columnEntry = (columns: MapColumns, index: number): MapEntry => {
  const kind = kindName(columns.kinds[index] ?? MAP_KINDS.length);
  if (kind === 'inherit' || kind === 'zero') return { kind };
  return { kind, digest: digestFromBytes(columns.digests.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES)) };
};

export const encodeMapPage = (page: MapPage): Buffer => {
  const columns = mapColumns(page.entries.length);
  page.entries.forEach((entry, index) => setColumnEntry(columns, index, entry));
  return encodePageColumns(page.level, columns);
};

/** Errors: `malformed`, `unknown-format`. */
export const decodeMapPage = (bytes: Uint8Array): MapPage => {
  const { level, columns } = decodePageColumns(bytes);
  return { level, entries: Array.from(columns.kinds, (_kind, index) => columnEntry(columns, index)) };
};

/** The page of 1 to 128 entries. */
export const encodePageColumns = (level: number, columns: MapColumns): Buffer => {
  const { kinds, digests } = columns;
  if (kinds.length < 1 || kinds.length > MAP_FANOUT || level < 0 || level > MAP_LEVEL_MAX) {
    throw new RangeError(`no page has level ${level} and ${kinds.length} entries`);
  }
  const digestCount = kinds.reduce((count, kind) => count + (kind >= MAP_KIND.public ? 1 : 0), 0);
  const page = Buffer.alloc(8 + Math.ceil(kinds.length / 4) + digestCount * DIGEST_BYTES);
  MAGIC.copy(page);
  page.writeUInt8(level, 4);
  page.writeUInt16LE(kinds.length, 6);
  let at = 8 + Math.ceil(kinds.length / 4);
  kinds.forEach((kind, index) => {
    if (level > 0 && kind === MAP_KIND.private) throw new RangeError('an inner page has no private entries');
    const packedAt = 8 + (index >> 2);
    page[packedAt] = (page[packedAt] ?? 0) | (kind << ((index & 3) * 2));
    if (kind >= MAP_KIND.public) at += digests.copy(page, at, index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES);
  });
  return page;
};

/** Level and entries; the columns are copies. Errors: `malformed`, `unknown-format`. */
export const decodePageColumns = (bytes: Uint8Array): { readonly level: number; readonly columns: MapColumns } => {
  const reader = new ByteReader(bytes, 'map page');
  reader.magic(MAGIC);
  const level = reader.u8();
  if (level > MAP_LEVEL_MAX) throw reader.error(`level ${level} is above ${MAP_LEVEL_MAX}`);
  reader.reserved(1);
  const count = reader.u16();
  if (count < 1 || count > MAP_FANOUT) throw reader.error(`${count} entries, 1 to ${MAP_FANOUT} are allowed`);
  const packed = reader.take(Math.ceil(count / 4));
  if (count % 4 !== 0 && (packed[packed.length - 1] ?? 0) >> ((count % 4) * 2) !== 0) {
    throw reader.error('unused kind bits are set');
  }
  const columns = mapColumns(count);
  for (let index = 0; index < count; index += 1) {
    const kind = ((packed[index >> 2] ?? 0) >> ((index & 3) * 2)) & 3;
    if (level > 0 && kind === MAP_KIND.private) throw reader.error('an inner page has a private entry');
    columns.kinds[index] = kind;
    if (kind >= MAP_KIND.public) reader.take(DIGEST_BYTES).copy(columns.digests, index * DIGEST_BYTES);
  }
  reader.end();
  return { level, columns };
};
