/**
 * The heavy part of packing a snapshot, done by worker processes: names, compression and encryption of blocks. Pure work
 * over bytes that come with the task; who runs it is openPackWork.
 */
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
import { ProcessPool } from '../work/process-pool.js';

/** Entries of a disk map, one a block: `MAP_KIND`, and 32 bytes where it has a digest. */
export type Entries = { readonly kinds: Uint8Array; readonly digests: Uint8Array };

export type NameTask = {
  readonly kind: 'name';
  /** Blocks back to back. */
  readonly bytes: Uint8Array;
  readonly blockBytes: number;
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
  readonly bytes: Uint8Array;
  readonly blockBytes: number;
  /** 32 bytes a block: what it was named. */
  readonly digests: Uint8Array;
  readonly nameKey: Uint8Array;
  readonly chunkKey: Uint8Array;
  readonly epoch: number;
  readonly level: number;
};
export type PagesTask = { readonly kind: 'pages'; readonly pages: readonly Uint8Array[]; readonly level: number };
export type ChunksResult = { readonly kind: 'chunks'; readonly chunks: readonly Uint8Array[] };

export type PackTask = NameTask | EncodeTask | PagesTask;
export type PackResult = NameResult | ChunksResult;
export type PackWork = ProcessPool<PackTask, PackResult>;

/** One worker is enough for what a person writes, and leaves the other cores to the machines. `workers: 0`: on the calling thread. */
export const openPackWork = (options: { readonly workers?: number } = {}): PackWork =>
  ProcessPool.open({
    isBackground: true,
    script: new URL('./backup-worker.js', import.meta.url),
    inline: () => ({ run: runPackTask }),
    workers: options.workers ?? 1,
  });

/** Errors: `local-io` when a block is not what it was named. */
export const runPackTask = async (task: PackTask): Promise<PackResult> => {
  switch (task.kind) {
    case 'name':
      return nameBlocks(task);
    case 'encode':
      return { kind: 'chunks', chunks: encodeBlocks(task) };
    case 'pages':
      // A raw chunk may be a view of its page; what crosses processes is copied anyway.
      return { kind: 'chunks', chunks: task.pages.map((page) => encodeChunk(page, { level: task.level })) };
    default:
      return task satisfies never;
  }
};

const nameBlocks = (task: NameTask): NameResult => {
  const { bytes, blockBytes } = task;
  const count = bytes.length / blockBytes;
  const kinds = new Uint8Array(count);
  const digests = Buffer.alloc(count * DIGEST_BYTES);
  for (let at = 0; at < count; at += 1) {
    const block = bytes.subarray(at * blockBytes, (at + 1) * blockBytes);
    const { kind, digest } = nameBlock(block, at, task);
    kinds[at] = kind;
    if (digest !== undefined) digests.set(digest, at * DIGEST_BYTES);
  }
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

const encodeBlocks = (task: EncodeTask): Uint8Array[] => {
  const { bytes, blockBytes, nameKey, chunkKey, epoch, level } = task;
  const chunks: Uint8Array[] = [];
  for (let at = 0; at * blockBytes < bytes.length; at += 1) {
    const block = bytes.subarray(at * blockBytes, (at + 1) * blockBytes);
    const digest = digestFromBytes(task.digests.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES));
    // A sealed layer never changes: whatever this is, it must not be saved as that block.
    if (privateBlockDigest(nameKey, block) !== digest)
      throw new CollectiveError('local-io', `A sealed layer changed while it was being packed (block ${digest}).`);
    chunks.push(encodePrivateChunk(block, { key: chunkKey, epoch, digest, level }));
  }
  return chunks;
};

const digestAt = ({ digests }: Entries, at: number): Uint8Array =>
  digests.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES);
