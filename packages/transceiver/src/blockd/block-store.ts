import type { Digest } from '@collective/shared';

/**
 * The seam of the second address space: immutable blocks by digest.
 *
 * Cache, single-flight, retry and verify are BlockStores (the cache answers from its slots, the rest are decorators);
 * below verify there are only chunks (ChunkStore: scheduler, HTTP). A BlockStore's `get` either resolves with the whole
 * verified block or rejects; "not here, ask the next" is the business of the layer that holds the next one.
 */
export interface BlockStore {
  /**
   * The uncompressed block of that digest, `blockBytes` long. The buffer is read-only for ever. Calls may overlap.
   * Abort rejects with the signal's reason. Errors: `block-missing` (the repository does not have it),
   * `repository-unreachable`, `not-allowed`, `token-expired`, `wrong-server`, `block-corrupt`, `wrong-key` (its key epoch is not known here).
   */
  get(request: BlockRequest, options: GetOptions): Promise<Buffer>;
}

/** The same by stored form: what a repository, a mirror or a peer hands out. Nobody has checked the bytes. */
export interface ChunkStore {
  /** The chunk of that digest, at most `chunkBytesMax(blockBytes)` long. Errors as BlockStore's, but `block-corrupt`. */
  getChunk(request: BlockRequest, options: GetChunkOptions): Promise<Buffer>;
}

/** One block as a reader asks for it. The digest decides what is right; the rest helps to place and bound it. */
export type BlockRequest = {
  readonly digest: Digest;
  /** Plain length in bytes: what the chunk must decompress to. */
  readonly blockBytes: number;
  /** Which blocks are worth lying side by side in the cache: any number that a disk's neighbourhood has in common. */
  readonly neighbourhood: number;
  /** How long its chunk is, where that is known. */
  readonly chunkBytes?: number | undefined;
  /** Of a private block: which of the known snapshots has it (private/snapshot-store.ts). */
  readonly source?: string | undefined;
  /** Where it lies beside others that are wanted, too; used for what is asked for ahead. */
  readonly segment?: ObjectSegment | undefined;
  /** It is not to take the place of another block. */
  readonly ifRoom?: boolean | undefined;
};

/** A segment of a boot object: a chunk that holds several blocks (docs/formats/trace.md). */
export type ObjectSegment = {
  readonly digest: Digest;
  readonly chunkBytes: number;
  /** Its blocks, in their order. */
  readonly digests: readonly Digest[];
};

/** Who asks, best first. A request that joins a lower one raises it. */
export const FETCH_CLASSES = ['demand', 'trace', 'hoard', 'background'] as const;
export type FetchClass = (typeof FETCH_CLASSES)[number];

export const isFetchClass = (text: string): text is FetchClass =>
  FETCH_CLASSES.some((fetchClass) => fetchClass === text);

/** Whether `a` goes before `b`. */
export const isBetterClass = (a: FetchClass, b: FetchClass): boolean =>
  FETCH_CLASSES.indexOf(a) < FETCH_CLASSES.indexOf(b);

/** The class of a request, which a later and more urgent waiter can raise while the request is queued or backing off. */
export interface FetchRank {
  readonly fetchClass: FetchClass;
  /** Calls back after each raise, until the function that comes back is called. */
  onRaise(listener: () => void): () => void;
}

export type GetOptions = {
  readonly rank: FetchRank;
  /** The waiter's own; a joined fetch stops only when its last waiter has left. */
  readonly signal?: AbortSignal;
};

export type GetChunkOptions = GetOptions & {
  /** So many more bytes of the answer have come. */
  readonly onBytes?: (byteLength: number) => void;
};

const neverRaised = (fetchClass: FetchClass): FetchRank => ({ fetchClass, onRaise: () => () => undefined });

/** Ranks that stay what they are: what a waiter asks with. */
export const RANK: Readonly<Record<FetchClass, FetchRank>> = {
  demand: neverRaised('demand'),
  trace: neverRaised('trace'),
  hoard: neverRaised('hoard'),
  background: neverRaised('background'),
};
