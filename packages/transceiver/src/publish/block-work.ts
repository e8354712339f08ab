/**
 * The heavy part of a publish, done by worker processes: read a range of an image and hash its blocks; later, read the
 * blocks that the server lacks, and make their chunks. Pure work over an ImageBytes; who runs it is work-pool.ts.
 */
import {
  CHUNK_BATCH_BYTES_FULL,
  CollectiveError,
  MAP_KIND,
  blockDigest,
  digestBytes,
  digestFromBytes,
  encodeChunk,
  encodeChunkBatch,
  isAllZero,
  sha256Bytes,
  type ChunkRecord,
} from '@collective/shared';
import { openImageBytes, type ByteSource, type ImageBytes } from './image-bytes.js';

/** Blocks are read in pieces of this many bytes. */
const READ_BYTES = 1024 * 1024;

export type HashTask = {
  readonly kind: 'hash';
  readonly source: ByteSource;
  readonly blockBytes: number;
  readonly firstBlock: number;
  readonly blockCount: number;
};
/** Per block: its map kind (zero or public) and 32 bytes of digest (zeroes for a zero block). */
export type HashResult = { readonly kind: 'hash'; readonly kinds: Uint8Array; readonly digests: Uint8Array };

export type EncodeTask = {
  readonly kind: 'encode';
  readonly source: ByteSource;
  readonly blockBytes: number;
  readonly blockIndexes: Uint32Array;
  /** 32 bytes a block, in the same order: what the block must still be. */
  readonly digests: Uint8Array;
  readonly level: number;
};
/** Chunk batches that are ready to be sent, each at most 4 MiB and one chunk. */
export type EncodeResult = { readonly kind: 'encode'; readonly batches: readonly Uint8Array[] };

export type WorkTask = HashTask | EncodeTask;
export type WorkResult = HashResult | EncodeResult;

/** Runs tasks; keeps the sources of earlier tasks open until `close`. */
export class BlockWork {
  readonly #open = new Map<string, Promise<ImageBytes>>();

  /** Errors: `bad-image` when a block is not what it was when it was hashed, `local-io`. */
  async run(task: WorkTask): Promise<WorkResult> {
    const bytes = await this.#bytesOf(task.source);
    return task.kind === 'hash' ? hashBlocks(bytes, task) : encodeBlocks(bytes, task);
  }

  async close(): Promise<void> {
    for (const opened of this.#open.values()) await (await opened).close();
    this.#open.clear();
  }

  async #bytesOf(source: ByteSource): Promise<ImageBytes> {
    const key = source.kind === 'file' ? source.path : source.socketPath;
    let opened = this.#open.get(key);
    if (opened === undefined) {
      opened = openImageBytes(source);
      this.#open.set(key, opened);
    }
    return opened;
  }
}

async function hashBlocks(bytes: ImageBytes, task: HashTask): Promise<HashResult> {
  const { blockBytes, blockCount, firstBlock } = task;
  const kinds = new Uint8Array(blockCount).fill(MAP_KIND.zero);
  const digests = Buffer.alloc(blockCount * 32);
  const perRead = Math.max(1, READ_BYTES / blockBytes);
  const piece = Buffer.allocUnsafe(perRead * blockBytes);
  for (let first = 0; first < blockCount; first += perRead) {
    const count = Math.min(perRead, blockCount - first);
    await bytes.read(piece.subarray(0, count * blockBytes), (firstBlock + first) * blockBytes);
    for (let index = 0; index < count; index += 1) {
      const block = piece.subarray(index * blockBytes, (index + 1) * blockBytes);
      if (isAllZero(block)) continue;
      kinds[first + index] = MAP_KIND.public;
      sha256Bytes(block).copy(digests, (first + index) * 32);
    }
  }
  return { kind: 'hash', kinds, digests };
}

async function encodeBlocks(bytes: ImageBytes, task: EncodeTask): Promise<EncodeResult> {
  const batches: Uint8Array[] = [];
  let records: ChunkRecord[] = [];
  let batchBytes = 0;
  const block = Buffer.allocUnsafe(task.blockBytes);
  for (const [at, blockIndex] of task.blockIndexes.entries()) {
    await bytes.read(block, blockIndex * task.blockBytes);
    const digest = digestFromBytes(task.digests.subarray(at * 32, (at + 1) * 32));
    if (blockDigest(block) !== digest) {
      const where = task.source.kind === 'file' ? task.source.path : 'the image';
      throw new CollectiveError(
        'bad-image',
        `${where} changed while it was being published (block ${String(blockIndex)}).`,
      );
    }
    // encodeChunk may hand back a view of a raw block; the batch copies it before the next read.
    const chunk = Buffer.from(encodeChunk(block, { level: task.level }));
    records.push({ digest, chunk });
    batchBytes += chunk.length + digestBytes(digest).length + 4;
    if (batchBytes >= CHUNK_BATCH_BYTES_FULL - task.blockBytes) {
      batches.push(encodeChunkBatch(records));
      records = [];
      batchBytes = 0;
    }
  }
  if (records.length > 0) batches.push(encodeChunkBatch(records));
  return { kind: 'encode', batches };
}
