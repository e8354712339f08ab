/**
 * Chunk batch, version 1 (docs/formats/blocks.md): how public chunks and map pages travel together.
 *
 *   magic 4 | count 4 | { digest 32 | chunkBytes 4 | chunk }*
 *
 * A writer stops adding records at 4 MiB, so a batch is shorter than 4 MiB and one record. The codec does not look
 * into the chunks: whoever receives a batch decodes every chunk against its digest.
 */
import { type Digest } from './brands.js';
import { ByteReader, magicBytes } from './byte-reader.js';
import { CHUNK_BYTES_MAX, CHUNK_HEADER_BYTES } from './chunk.js';
import { DIGEST_BYTES, digestBytes, digestFromBytes } from './digest.js';
import { CollectiveError } from './errors.js';

export type ChunkRecord = { readonly digest: Digest; readonly chunk: Buffer };

/** A writer begins another batch when this one has reached so many bytes. */
export const CHUNK_BATCH_BYTES_FULL = 4 * 1_048_576;
export const CHUNK_RECORD_HEADER_BYTES = DIGEST_BYTES + 4;
export const CHUNK_BATCH_BYTES_MAX = CHUNK_BATCH_BYTES_FULL + CHUNK_RECORD_HEADER_BYTES + CHUNK_BYTES_MAX;
export const CHUNK_BATCH_RECORDS_MAX = 8_192;

const MAGIC = magicBytes('CBT', 1);
const CHUNK_BYTES_MIN = CHUNK_HEADER_BYTES + 1;

/** Errors: `too-large` above 8,192 records or the byte maximum; a chunk of an impossible length is `malformed`. */
export const encodeChunkBatch = (
  records: Iterable<{ readonly digest: Digest; readonly chunk: Uint8Array }>,
): Buffer => {
  const header = Buffer.alloc(8);
  const parts: Uint8Array[] = [header];
  let count = 0;
  let batchBytes = header.length;
  for (const { digest, chunk } of records) {
    checkChunkBytes(chunk.length);
    const recordHeader = Buffer.alloc(CHUNK_RECORD_HEADER_BYTES);
    digestBytes(digest).copy(recordHeader);
    recordHeader.writeUInt32LE(chunk.length, DIGEST_BYTES);
    parts.push(recordHeader, chunk);
    count += 1;
    batchBytes += recordHeader.length + chunk.length;
    checkBatch({ count, batchBytes });
  }
  MAGIC.copy(header);
  header.writeUInt32LE(count, 4);
  return Buffer.concat(parts, batchBytes);
};

/** The records in order; chunks are views of `bytes`. Errors: `malformed`, `unknown-format`, `too-large`. */
export const decodeChunkBatch = (bytes: Uint8Array): ChunkRecord[] => {
  const reader = new ByteReader(bytes, 'chunk batch');
  reader.magic(MAGIC);
  const count = reader.u32();
  checkBatch({ count, batchBytes: bytes.length });
  const records: ChunkRecord[] = [];
  for (let index = 0; index < count; index += 1) {
    const digest = digestFromBytes(reader.take(DIGEST_BYTES));
    const chunkBytes = reader.u32();
    checkChunkBytes(chunkBytes);
    records.push({ digest, chunk: reader.take(chunkBytes) });
  }
  reader.end();
  return records;
};

const checkBatch = ({ count, batchBytes }: { readonly count: number; readonly batchBytes: number }): void => {
  if (count > CHUNK_BATCH_RECORDS_MAX) {
    throw new CollectiveError('too-large', `chunk batch: ${count} records, at most ${CHUNK_BATCH_RECORDS_MAX}`);
  }
  if (batchBytes > CHUNK_BATCH_BYTES_MAX) {
    throw new CollectiveError('too-large', `chunk batch: ${batchBytes} bytes, at most ${CHUNK_BATCH_BYTES_MAX}`);
  }
};

const checkChunkBytes = (chunkBytes: number): void => {
  if (chunkBytes < CHUNK_BYTES_MIN || chunkBytes > CHUNK_BYTES_MAX) {
    throw new CollectiveError('malformed', `chunk batch: a chunk cannot have ${chunkBytes} bytes`);
  }
};
