/**
 * Snapshot object, version 1 (docs/formats/snapshot-object.md): what one snapshot adds, as one object that is read by Range.
 *
 *   magic 4 | reserved 4 | chunk … | index | footer 56
 *
 * The writer is told chunk after chunk and never holds more than the index; a reader begins with the footer. The
 * codec does not look into the chunks: whoever reads one decodes it against its digest.
 */
import { type Digest } from './brands.js';
import { ByteReader, asBuffer, magicBytes } from './byte-reader.js';
import { CHUNK_BYTES_MAX, CHUNK_HEADER_BYTES } from './chunk.js';
import { DIGEST_BYTES, digestBytes, digestFromBytes, sha256Bytes } from './digest.js';
import { CollectiveError } from './errors.js';

export const SNAPSHOT_HEAD_BYTES = 8;
export const SNAPSHOT_FOOTER_BYTES = 56;
export const SNAPSHOT_RECORDS_MAX = 2 ** 24;
/** Of the index: digest, offset, length. */
export const SNAPSHOT_RECORD_BYTES = DIGEST_BYTES + 12;

const MAGIC = magicBytes('CSO', 1);
const FOOTER_MAGIC = Buffer.from('CSOE', 'ascii');
const RECORD_BYTES = SNAPSHOT_RECORD_BYTES;
const CHUNK_BYTES_MIN = CHUNK_HEADER_BYTES + 1;

/** Where a chunk lies in its object, in bytes. */
export type ChunkPlace = { readonly byteOffset: number; readonly chunkBytes: number };

/** Where the index lies, and what it must hash to. */
export type SnapshotFooter = {
  readonly indexOffset: number;
  readonly recordCount: number;
  readonly indexDigest: Buffer;
};

/** Gives the bytes of an object piece by piece: `head`, then each chunk as it is, then `finish()`. */
export class SnapshotObjectWriter {
  readonly head: Buffer = Buffer.concat([MAGIC, Buffer.alloc(4)]);
  readonly #places = new Map<Digest, ChunkPlace>();
  #byteLength = SNAPSHOT_HEAD_BYTES;

  /** Bytes so far, without index and footer. */
  get byteLength(): number {
    return this.#byteLength;
  }

  has(digest: Digest): boolean {
    return this.#places.has(digest);
  }

  /** Notes a chunk that follows what was added before. Errors: `malformed` for a length no chunk has, or a second one of that digest. */
  add(digest: Digest, chunkBytes: number): void {
    checkChunkBytes(chunkBytes);
    if (this.#places.has(digest)) throw malformed(`block ${digest} is there twice`);
    if (this.#places.size >= SNAPSHOT_RECORDS_MAX) throw tooMany(this.#places.size + 1);
    this.#places.set(digest, { byteOffset: this.#byteLength, chunkBytes });
    this.#byteLength += chunkBytes;
  }

  /** The index and the footer. */
  finish(): Buffer {
    const digests = [...this.#places.keys()].sort(); // hexadecimal digits sort as their bytes do
    const index = Buffer.alloc(digests.length * RECORD_BYTES);
    for (const [at, digest] of digests.entries()) {
      const place = this.#places.get(digest);
      if (place === undefined) throw new Error('a digest lost its place');
      const offset = at * RECORD_BYTES;
      digestBytes(digest).copy(index, offset);
      index.writeBigUInt64LE(BigInt(place.byteOffset), offset + DIGEST_BYTES);
      index.writeUInt32LE(place.chunkBytes, offset + DIGEST_BYTES + 8);
    }
    const footer = Buffer.alloc(SNAPSHOT_FOOTER_BYTES);
    footer.writeBigUInt64LE(BigInt(this.#byteLength), 0);
    footer.writeBigUInt64LE(BigInt(digests.length), 8);
    sha256Bytes(index).copy(footer, 16);
    FOOTER_MAGIC.copy(footer, 48);
    return Buffer.concat([index, footer]);
  }
}

/** The last 56 bytes of an object of `objectBytes`. Errors: `malformed`, `too-large`. */
export const decodeSnapshotFooter = (footer: Uint8Array, objectBytes: number): SnapshotFooter => {
  const reader = new ByteReader(footer, 'snapshot object');
  const indexOffset = reader.u64();
  const recordCount = reader.u64();
  const indexDigest = reader.take(DIGEST_BYTES);
  if (!reader.take(4).equals(FOOTER_MAGIC)) throw malformed('does not end as a snapshot object does');
  reader.reserved(4);
  reader.end();
  if (recordCount > SNAPSHOT_RECORDS_MAX) throw tooMany(recordCount);
  if (
    indexOffset < SNAPSHOT_HEAD_BYTES ||
    indexOffset + recordCount * RECORD_BYTES + SNAPSHOT_FOOTER_BYTES !== objectBytes
  )
    throw malformed(`an index of ${recordCount} records at ${indexOffset} does not fit ${objectBytes} bytes`);
  return { indexOffset, recordCount, indexDigest };
};

/** Where each chunk of an object lies; the bytes of the index are kept as they came (44 bytes a record). */
export class SnapshotIndex {
  readonly #records: Buffer;
  /** Positions in the index in the order of the file. */
  #order = new Uint32Array(0);

  private constructor(records: Buffer) {
    this.#records = records;
  }

  /** `bytes` are what the footer names. Errors: `digest-mismatch`, `malformed` (order, overlap, a gap, a place outside). */
  static decode(bytes: Uint8Array, footer: SnapshotFooter): SnapshotIndex {
    const records = asBuffer(bytes);
    if (records.length !== footer.recordCount * RECORD_BYTES)
      throw malformed(`${records.length} bytes are no index of ${footer.recordCount} records`);
    if (!sha256Bytes(records).equals(footer.indexDigest))
      throw new CollectiveError('digest-mismatch', 'snapshot object: the index does not have its digest');
    const index = new SnapshotIndex(records);
    index.#checkOrder();
    index.#checkPlaces(footer.indexOffset);
    return index;
  }

  get recordCount(): number {
    return this.#records.length / RECORD_BYTES;
  }

  /** The place of a chunk; undefined when the object does not hold it. Allocates nothing for one that is not there. */
  find(digest: Digest): ChunkPlace | undefined {
    return this.findBytes(digestBytes(digest));
  }

  /** The same for whoever looks into many objects: the digest's 32 bytes. */
  findBytes(wanted: Buffer): ChunkPlace | undefined {
    // The first four bytes tell nearly all digests apart.
    const first = wanted.readUInt32BE(0);
    let low = 0;
    let high = this.recordCount - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const offset = middle * RECORD_BYTES;
      const order =
        this.#records.readUInt32BE(offset) - first ||
        this.#records.compare(wanted, 0, DIGEST_BYTES, offset, offset + DIGEST_BYTES);
      if (order === 0) return this.#placeAt(middle);
      if (order < 0) low = middle + 1;
      else high = middle - 1;
    }
    return undefined;
  }

  /** All records, by digest. */
  *entries(): Generator<readonly [digest: Digest, place: ChunkPlace]> {
    for (let at = 0; at < this.recordCount; at += 1) yield [digestFromBytes(this.#digestAt(at)), this.#placeAt(at)];
  }

  /** All records, in the order in which the chunks lie in the object. */
  *inFileOrder(): Generator<readonly [digest: Digest, place: ChunkPlace]> {
    for (const at of this.#order) yield [digestFromBytes(this.#digestAt(at)), this.#placeAt(at)];
  }

  #digestAt(at: number): Buffer {
    return this.#records.subarray(at * RECORD_BYTES, at * RECORD_BYTES + DIGEST_BYTES);
  }

  #placeAt(at: number): ChunkPlace {
    const offset = at * RECORD_BYTES + DIGEST_BYTES;
    return { byteOffset: this.#offsetAt(at), chunkBytes: this.#records.readUInt32LE(offset + 8) };
  }

  /** One above 2^53 is no whole number any more: it is no end of a chunk, and so refused with the gap that it makes. */
  #offsetAt(at: number): number {
    const offset = at * RECORD_BYTES + DIGEST_BYTES;
    return this.#records.readUInt32LE(offset) + this.#records.readUInt32LE(offset + 4) * 0x1_0000_0000;
  }

  #checkOrder(): void {
    const records = this.#records;
    for (let at = RECORD_BYTES; at < records.length; at += RECORD_BYTES) {
      const before = at - RECORD_BYTES;
      if (records.compare(records, at, at + DIGEST_BYTES, before, before + DIGEST_BYTES) >= 0)
        throw malformed('the index is not in order');
    }
  }

  /** The chunks lie back to back from the head to the index. */
  #checkPlaces(indexOffset: number): void {
    const offsets = Float64Array.from({ length: this.recordCount }, (_unused, at) => this.#offsetAt(at));
    // Sorted as numbers, and each record put where its offset is found: ten times as fast as sorting the records. Of two
    // with one offset the first loses its place, and the chunk that stands in for it is not where the one before ends.
    const sorted = offsets.slice().sort();
    const order = new Uint32Array(offsets.length);
    for (const [at, byteOffset] of offsets.entries()) order[firstNotBelow(sorted, byteOffset)] = at;
    let end = SNAPSHOT_HEAD_BYTES;
    for (const at of order) {
      const { byteOffset, chunkBytes } = this.#placeAt(at);
      checkChunkBytes(chunkBytes);
      if (byteOffset !== end) throw malformed(`a chunk is at ${byteOffset}, the one before ends at ${end}`);
      end += chunkBytes;
    }
    if (end !== indexOffset) throw malformed(`the chunks end at ${end}, the index begins at ${indexOffset}`);
    this.#order = order;
  }
}

const firstNotBelow = (sorted: Float64Array, wanted: number): number => {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] ?? 0) < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
};

/** The first 8 bytes of an object. Errors: `malformed`, `unknown-format`. */
export const checkSnapshotHead = (bytes: Uint8Array): void => {
  const head = new ByteReader(bytes, 'snapshot object');
  head.magic(MAGIC);
  head.reserved(4);
  head.end();
};

/** A whole object in memory: its chunks by digest, views of `bytes`, not looked into. Errors: as of its parts. */
export const decodeSnapshotObject = (bytes: Uint8Array): { digest: Digest; chunk: Buffer }[] => {
  const whole = asBuffer(bytes);
  checkSnapshotHead(whole.subarray(0, SNAPSHOT_HEAD_BYTES));
  const footer = decodeSnapshotFooter(whole.subarray(Math.max(0, whole.length - SNAPSHOT_FOOTER_BYTES)), whole.length);
  const index = SnapshotIndex.decode(whole.subarray(footer.indexOffset, whole.length - SNAPSHOT_FOOTER_BYTES), footer);
  return [...index.inFileOrder()].map(([digest, { byteOffset, chunkBytes }]) => ({
    digest,
    chunk: whole.subarray(byteOffset, byteOffset + chunkBytes),
  }));
};

/** The whole object of chunks that are all in memory. */
export const encodeSnapshotObject = (
  records: Iterable<{ readonly digest: Digest; readonly chunk: Uint8Array }>,
): Buffer => {
  const writer = new SnapshotObjectWriter();
  const parts: Uint8Array[] = [writer.head];
  for (const { digest, chunk } of records) {
    writer.add(digest, chunk.length);
    parts.push(chunk);
  }
  return Buffer.concat([...parts, writer.finish()]);
};

const checkChunkBytes = (chunkBytes: number): void => {
  if (chunkBytes < CHUNK_BYTES_MIN || chunkBytes > CHUNK_BYTES_MAX)
    throw malformed(`a chunk cannot have ${chunkBytes} bytes`);
};

const malformed = (message: string): CollectiveError => new CollectiveError('malformed', `snapshot object: ${message}`);

const tooMany = (count: number): CollectiveError =>
  new CollectiveError('too-large', `snapshot object: ${count} records, at most ${SNAPSHOT_RECORDS_MAX}`);
