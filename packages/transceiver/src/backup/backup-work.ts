/**
 * The heavy part of packing a snapshot, done by a worker process: it reads the blocks, names them, compresses and encrypts
 * them and writes them into the object. The agent only says which, and its own thread touches no data. Who runs it is openPackWork.
 */
import { open } from 'node:fs/promises';
import {
  CollectiveError,
  DIGEST_BYTES,
  MAP_KIND,
  digestFromBytes,
  encodeChunk,
  encodePrivateChunk,
  isAllZero,
  privateBlockDigest,
  sha256Bytes,
  digestBytes,
} from '@collective/shared';
import { NbdReader } from '../publish/nbd-reader.js';
import { ProcessPool } from '../work/process-pool.js';
import type { DiskView } from './disk-port.js';
import { localFailure } from './local-failure.js';

/** What is held in memory at once. */
const BATCH_BYTES = 1_048_576;
/** A guest's own requests stand behind a read that the block daemon has begun: neighbours are read together up to this. A larger block is one read. */
const READ_BYTES_MAX = 16_384;

/** What to read: at that view, these blocks, ascending. Through its socket where it has one: a worker has nothing else of it. */
export type Blocks = {
  readonly view: Pick<DiskView, 'diskBytes' | 'socketPath'> & Partial<Pick<DiskView, 'read'>>;
  readonly blockBytes: number;
  readonly blockIndexes: Uint32Array;
};

/** Entries of a disk map, one a block: `MAP_KIND`, and 32 bytes where it has a digest. */
export type Entries = { readonly kinds: Uint8Array; readonly digests: Uint8Array };

export type NameTask = {
  readonly kind: 'name';
  readonly blocks: Blocks;
  /** What the committed state has at these places. */
  readonly committed: Entries;
  /** What the initial user disk has there; undefined: there is none. */
  readonly base: Entries | undefined;
  /** 1 a block that gets its name by the newest epoch, whatever it was called. */
  readonly forced: Uint8Array;
  /** The newest epoch's key first. */
  readonly nameKeys: readonly Uint8Array[];
};
export type NameResult = { readonly kind: 'name' } & Entries;

export type EncodeTask = {
  readonly kind: 'encode';
  readonly blocks: Blocks;
  /** 32 bytes a block: what it was named. */
  readonly digests: Uint8Array;
  readonly nameKey: Uint8Array;
  readonly chunkKey: Uint8Array;
  readonly epoch: number;
  readonly level: number;
  /** Where the chunks go, back to back; the file is there. */
  readonly target: { readonly path: string; readonly byteOffset: number };
};
/** Bytes of each chunk, in the order of the blocks. */
export type EncodeResult = { readonly kind: 'encode'; readonly chunkBytes: Uint32Array };
export type PagesTask = { readonly kind: 'pages'; readonly pages: readonly Uint8Array[]; readonly level: number };
export type ChunksResult = { readonly kind: 'chunks'; readonly chunks: readonly Uint8Array[] };

export type PackTask = NameTask | EncodeTask | PagesTask;
export type PackResult = NameResult | EncodeResult | ChunksResult;
export type PackWork = ProcessPool<PackTask, PackResult>;

/** One worker is enough for what a person writes, and leaves the other cores to the machines. `workers: 0`: on the calling thread. */
export const openPackWork = (options: { readonly workers?: number } = {}): PackWork =>
  ProcessPool.open({
    isBackground: true,
    script: new URL('./backup-worker.js', import.meta.url),
    inline: () => ({ run: runPackTask }),
    workers: options.workers ?? 1,
  });

/** Errors: `local-io` when a block is not what it was named, or cannot be read or written; `disk-full`; those of the view. */
export const runPackTask = async (task: PackTask): Promise<PackResult> => {
  switch (task.kind) {
    case 'name':
      return nameBlocks(task);
    case 'encode':
      return encodeBlocks(task).catch((error: unknown) => {
        throw localFailure(error, task.target.path);
      });
    case 'pages':
      // A raw chunk may be a view of its page; what crosses processes is copied anyway.
      return { kind: 'chunks', chunks: task.pages.map((page) => encodeChunk(page, { level: task.level })) };
    default:
      return task satisfies never;
  }
};

const nameBlocks = async (task: NameTask): Promise<NameResult> => {
  const count = task.blocks.blockIndexes.length;
  const kinds = new Uint8Array(count);
  const digests = Buffer.alloc(count * DIGEST_BYTES);
  await eachBlock(task.blocks, (block, at) => {
    const { kind, digest } = nameBlock(block, at, task);
    kinds[at] = kind;
    if (digest !== undefined) digests.set(digest, at * DIGEST_BYTES);
  });
  return { kind: 'name', kinds, digests };
};

const nameBlock = (
  block: Uint8Array,
  at: number,
  { committed, base, forced, nameKeys }: NameTask,
): { readonly kind: number; readonly digest?: Uint8Array } => {
  if (isAllZero(block))
    return { kind: base !== undefined && base.kinds[at] === MAP_KIND.zero ? MAP_KIND.inherit : MAP_KIND.zero };
  if (base?.kinds[at] === MAP_KIND.public && sha256Bytes(block).equals(digestAt(base, at)))
    return { kind: MAP_KIND.inherit };
  const [newest, ...older] = nameKeys;
  if (newest === undefined) throw new RangeError('no key names a block');
  const name = digestBytes(privateBlockDigest(newest, block));
  if (committed.kinds[at] !== MAP_KIND.private || forced[at] === 1) return { kind: MAP_KIND.private, digest: name };
  const before = digestAt(committed, at);
  // Written again with what was there: it keeps the name that an older epoch gave it.
  const isSame = name.equals(before) || older.some((key) => digestBytes(privateBlockDigest(key, block)).equals(before));
  return { kind: MAP_KIND.private, digest: isSame ? before : name };
};

const encodeBlocks = async ({ blocks, target, ...task }: EncodeTask): Promise<EncodeResult> => {
  const { nameKey, chunkKey, epoch, level } = task;
  const chunkBytes = new Uint32Array(blocks.blockIndexes.length);
  const file = await open(target.path, 'r+');
  try {
    let { byteOffset } = target;
    let chunks: Uint8Array[] = [];
    const encode = (block: Uint8Array, at: number): void => {
      const digest = digestFromBytes(task.digests.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES));
      // A sealed layer never changes: whatever this is, it must not be saved as that block.
      if (privateBlockDigest(nameKey, block) !== digest)
        throw new CollectiveError('local-io', `A sealed layer changed while it was being packed (block ${digest}).`);
      const chunk = encodePrivateChunk(block, { key: chunkKey, epoch, digest, level });
      chunkBytes[at] = chunk.length;
      chunks.push(chunk);
    };
    await eachBlock(blocks, encode, async () => {
      const bytes = Buffer.concat(chunks);
      chunks = [];
      for (let written = 0; written < bytes.length;)
        written += (await file.write(bytes, written, bytes.length - written, byteOffset + written)).bytesWritten;
      byteOffset += bytes.length;
    });
  } finally {
    await file.close();
  }
  return { kind: 'encode', chunkBytes };
};

/** Each block in its order, zeroes where the last one lies beyond the disk; good only during the call. `batch`: after so many of them. */
const eachBlock = async (
  blocks: Blocks,
  use: (block: Uint8Array, at: number) => void,
  batch: () => Promise<void> = async () => undefined,
): Promise<void> => {
  const { blockBytes, blockIndexes, view } = blocks;
  const { socketPath } = view;
  if (blockIndexes.length === 0) return;
  const reader = socketPath === undefined ? undefined : await NbdReader.open(socketPath, 'block-unavailable');
  const read = reader?.read.bind(reader) ?? view.read?.bind(view);
  if (read === undefined) throw new RangeError('a view without a socket is not for another process');
  try {
    const perBatch = Math.max(1, Math.floor(BATCH_BYTES / blockBytes));
    const bytes = Buffer.alloc(Math.min(perBatch, blockIndexes.length) * blockBytes);
    for (let from = 0; from < blockIndexes.length; from += perBatch) {
      const some = blockIndexes.subarray(from, from + perBatch);
      for (const { target, byteOffset } of runsOf(some, blocks, bytes)) await read(target, byteOffset);
      for (let at = 0; at < some.length; at += 1)
        use(bytes.subarray(at * blockBytes, (at + 1) * blockBytes), from + at);
      await batch();
    }
  } finally {
    reader?.close();
  }
};

/** Neighbours are read together. */
function* runsOf(
  blockIndexes: Uint32Array,
  { blockBytes, view }: Blocks,
  bytes: Buffer,
): Generator<{ readonly target: Buffer; readonly byteOffset: number }> {
  for (let first = 0; first < blockIndexes.length;) {
    let after = first + 1;
    while (
      after < blockIndexes.length &&
      blockIndexes[after] === (blockIndexes[after - 1] ?? 0) + 1 &&
      (after + 1 - first) * blockBytes <= READ_BYTES_MAX
    )
      after += 1;
    const byteOffset = (blockIndexes[first] ?? 0) * blockBytes;
    const byteLength = Math.min((after - first) * blockBytes, view.diskBytes - byteOffset);
    const target = bytes.subarray(first * blockBytes, first * blockBytes + byteLength);
    bytes.fill(0, first * blockBytes + byteLength, after * blockBytes);
    yield { target, byteOffset };
    first = after;
  }
}

const digestAt = ({ digests }: Entries, at: number): Uint8Array =>
  digests.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES);
