/**
 * Image → disk map: every block that holds data is read and hashed by the work pool; holes are never read.
 */
import PQueue from 'p-queue';
import { ChangedPairs, DIGEST_BYTES, DiskMap, MAP_KIND, mapColumns } from '@collective/shared';
import type { DiskImage, ImageExtent } from './disk-image.js';
import type { ByteSource } from './image-bytes.js';
import type { WorkPool } from './work-pool.js';

/** One task of the pool: large enough that messages cost nothing, small enough that progress moves. */
const TASK_BYTES = 32 * 1024 * 1024;
/** A map takes 33 bytes a block in memory: larger disks get larger blocks, so that it stays below 550 MB. */
const BLOCKS_MAX = 2 ** 24;

export const SYSTEM_BLOCK_BYTES = 65_536;
export const USER_BLOCK_BYTES = 16_384;

/** The block size of a disk that is published: by kind, doubled until the disk has at most 2^24 blocks. */
export function blockBytesFor(disk: {
  readonly kind: 'system' | 'user' | 'ephemeral';
  readonly diskBytes: number;
}): number {
  let blockBytes = disk.kind === 'user' ? USER_BLOCK_BYTES : SYSTEM_BLOCK_BYTES;
  while (disk.diskBytes / blockBytes > BLOCKS_MAX && blockBytes < 1_048_576) blockBytes *= 2;
  return blockBytes;
}

export type BlockRange = { readonly firstBlock: number; readonly blockCount: number };

/** The blocks that hold data, in ranges of at most `blocksMax`, ascending, none twice. Pure. */
export function* dataRanges(
  extents: readonly ImageExtent[],
  blockBytes: number,
  blocksMax: number,
): Generator<BlockRange> {
  let next = 0;
  let pending: { first: number; end: number } | undefined;
  for (const extent of extents) {
    if (!extent.data) continue;
    const first = Math.max(next, Math.floor(extent.byteOffset / blockBytes));
    const end = Math.ceil((extent.byteOffset + extent.byteLength) / blockBytes);
    if (first >= end) continue;
    if (pending !== undefined && pending.end === first) {
      pending.end = end;
    } else {
      if (pending !== undefined) yield* split(pending, blocksMax);
      pending = { first, end };
    }
    next = end;
  }
  if (pending !== undefined) yield* split(pending, blocksMax);
}

function* split(range: { readonly first: number; readonly end: number }, blocksMax: number): Generator<BlockRange> {
  for (let first = range.first; first < range.end; first += blocksMax) {
    yield { firstBlock: first, blockCount: Math.min(blocksMax, range.end - first) };
  }
}

/** `onProgress` gets the bytes that were read so far. Errors: `bad-image`, `local-io`, abort. */
export async function mapImage(
  image: DiskImage,
  options: {
    readonly source: ByteSource;
    readonly blockBytes: number;
    readonly pool: WorkPool;
    readonly onProgress?: (readBytes: number) => void;
    readonly signal?: AbortSignal;
  },
): Promise<DiskMap> {
  const { blockBytes, pool, source } = options;
  const map = DiskMap.empty({ diskBytes: image.diskBytes, blockBytes });
  const queue = new PQueue({ concurrency: Math.max(1, pool.workers) * 2 });
  let readBytes = 0;
  const failures: unknown[] = [];
  for (const range of dataRanges(image.extents, blockBytes, Math.max(1, TASK_BYTES / blockBytes))) {
    await queue.onSizeLessThan(4);
    options.signal?.throwIfAborted();
    if (failures.length > 0) break;
    void queue
      .add(async () => {
        const result = await pool.run({ kind: 'hash', source, blockBytes, ...range });
        if (result.kind !== 'hash') return;
        take(map, range, {
          kinds: result.kinds,
          digests: Buffer.from(result.digests.buffer, result.digests.byteOffset, result.digests.byteLength),
        });
        readBytes += range.blockCount * blockBytes;
        options.onProgress?.(readBytes);
      })
      .catch((error: unknown) => failures.push(error));
  }
  await queue.onIdle();
  if (failures.length > 0) throw failures[0];
  return map;
}

/** Runs of neighbouring blocks among these (ascending), of at most `blocksMax` each. Pure. */
export function* blockRuns(blocks: Uint32Array, blocksMax: number): Generator<BlockRange> {
  let first: number | undefined;
  let count = 0;
  for (const block of blocks) {
    if (first !== undefined && block === first + count && count < blocksMax) count += 1;
    else {
      if (first !== undefined) yield { firstBlock: first, blockCount: count };
      first = block;
      count = 1;
    }
  }
  if (first !== undefined) yield { firstBlock: first, blockCount: count };
}

/**
 * What becomes of `base` when these blocks (ascending) are as `source` has them: only they are read. `onProgress` gets the
 * blocks that were read so far. Errors: `bad-image`, `local-io`, abort.
 */
export async function mapBlocks(
  base: DiskMap,
  blocks: Uint32Array,
  options: {
    readonly source: ByteSource;
    readonly pool: Pick<WorkPool, 'run' | 'workers'>;
    readonly onProgress?: (readBlocks: number) => void;
    readonly signal?: AbortSignal;
  },
): Promise<DiskMap> {
  const { pool, source } = options;
  const { blockBytes } = base;
  const map = base.clone();
  const columns = mapColumns(blocks.length);
  const queue = new PQueue({ concurrency: Math.max(1, pool.workers) * 2 });
  const failures: unknown[] = [];
  let readBlocks = 0;
  let next = 0;
  for (const range of blockRuns(blocks, Math.max(1, TASK_BYTES / blockBytes))) {
    const at = next;
    next += range.blockCount;
    await queue.onSizeLessThan(4);
    options.signal?.throwIfAborted();
    if (failures.length > 0) break;
    void queue
      .add(async () => {
        const result = await pool.run({ kind: 'hash', source, blockBytes, ...range });
        if (result.kind !== 'hash') return;
        columns.kinds.set(result.kinds, at);
        columns.digests.set(result.digests, at * DIGEST_BYTES);
        readBlocks += range.blockCount;
        options.onProgress?.(readBlocks);
      })
      .catch((error: unknown) => failures.push(error));
  }
  await queue.onIdle();
  if (failures.length > 0) throw failures[0];
  return map.apply(new ChangedPairs(map, blocks, columns));
}

function take(map: DiskMap, range: BlockRange, found: { readonly kinds: Uint8Array; readonly digests: Buffer }): void {
  const indexes = new Uint32Array(range.blockCount);
  let count = 0;
  for (let at = 0; at < range.blockCount; at += 1) {
    if (found.kinds[at] === MAP_KIND.public) indexes[count++] = at;
  }
  const columns = mapColumns(count);
  for (let at = 0; at < count; at += 1) {
    const block = indexes[at] ?? 0;
    columns.kinds[at] = MAP_KIND.public;
    found.digests.copy(columns.digests, at * 32, block * 32, (block + 1) * 32);
    indexes[at] = block + range.firstBlock;
  }
  map.apply(new ChangedPairs(map, indexes.subarray(0, count), columns));
}
