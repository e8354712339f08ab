/**
 * Chunk → block: decodes and checks against the digest, directly above the transport. Whatever is wrong with a chunk is
 * `block-corrupt`: the bytes of one attempt say nothing about the next.
 */
import { CollectiveError, decodeChunk } from '@collective/shared';
import type { BlockRequest, BlockStore, ChunkStore, GetOptions } from '../block-store.js';

export class VerifyingStore implements BlockStore {
  readonly #next: ChunkStore;
  #corrupt = 0;

  constructor(next: ChunkStore) {
    this.#next = next;
  }

  /** Chunks that were not what they were asked for. */
  get corrupt(): number {
    return this.#corrupt;
  }

  async get(request: BlockRequest, options: GetOptions): Promise<Buffer> {
    const chunk = await this.#next.getChunk(request, options);
    try {
      return decodeChunk(chunk, { digest: request.digest, plainBytes: request.blockBytes });
    } catch (error) {
      if (!(error instanceof CollectiveError)) throw error;
      this.#corrupt += 1;
      throw new CollectiveError('block-corrupt', `block ${request.digest} arrived damaged: ${error.message}`, {
        cause: error,
        data: { digest: request.digest },
      });
    }
  }
}
