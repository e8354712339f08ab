import type { Digest } from '@collective/shared';

/**
 * The seam of the second address space: immutable blocks by digest.
 *
 * Cache, single-flight, retry, verify, scheduler and HTTP are BlockStores (the cache answers from its slots, the rest
 * are decorators and leaves below it). "Not here, ask the next" is `undefined` from `has`-like questions, never an
 * error; a BlockStore's `get` either resolves with the whole verified block or rejects.
 */
export interface BlockStore {
  /**
   * The uncompressed block of that digest, `blockBytes` long. The buffer is read-only for ever. Calls may overlap.
   * Errors: `block-missing` (the repository does not have it), `repository-unreachable`, `not-allowed`, `block-corrupt`.
   */
  get(request: BlockRequest, options: GetOptions): Promise<Buffer>;
}

/** One block as a reader asks for it. The digest decides what is right; the rest helps to place, bound and rank it. */
export type BlockRequest = {
  readonly digest: Digest;
  /** Plain length in bytes: what the chunk must decompress to. */
  readonly blockBytes: number;
};

/** Who asks, best first. A request that joins a lower one raises it. */
export const FETCH_CLASSES = ['demand', 'trace', 'hoard', 'background'] as const;
export type FetchClass = (typeof FETCH_CLASSES)[number];

export type GetOptions = {
  readonly fetchClass: FetchClass;
  /** The waiter's own; the joined fetch stops only when its last waiter has left. */
  readonly signal?: AbortSignal;
};
