/**
 * Chunk → block: decodes and checks against the digest, directly above the transport. Whatever is wrong with a chunk is
 * `block-corrupt`: the bytes of one attempt say nothing about the next.
 */
import { CollectiveError, decodeChunk, type Digest } from '@collective/shared';
import type { BlockRequest, BlockStore, ChunkStore, GetOptions } from '../block-store.js';
import { faultOfChunk } from '../faults.js';

/** The block in a chunk, checked against its digest. Errors: `malformed` and its like, `digest-mismatch`, `wrong-key` when it cannot be told. */
export type ChunkDecoder = (chunk: Buffer, of: { readonly digest: Digest; readonly plainBytes: number }) => Buffer;

export class VerifyingStore implements BlockStore {
  readonly #next: ChunkStore;
  readonly #decode: ChunkDecoder;
  #corrupt = 0;

  constructor(next: ChunkStore, decode: ChunkDecoder = decodeChunk) {
    this.#next = next;
    this.#decode = decode;
  }

  /** Chunks that were not what they were asked for. */
  get corrupt(): number {
    return this.#corrupt;
  }

  async get(request: BlockRequest, options: GetOptions): Promise<Buffer> {
    const chunk = await this.#next.getChunk(request, options);
    try {
      return this.#decode(chunk, { digest: request.digest, plainBytes: request.blockBytes });
    } catch (error) {
      if (!(error instanceof CollectiveError) || error.code === 'wrong-key') throw error;
      this.#corrupt += 1;
      throw new CollectiveError('block-corrupt', `block ${request.digest} arrived damaged: ${error.message}`, {
        cause: error,
        data: { digest: request.digest, fault: faultOfChunk(error) },
      });
    }
  }
}
