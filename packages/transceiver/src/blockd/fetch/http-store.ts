/** Public chunks of a repository, one request each. */
import { CHUNK_HEADER_BYTES } from '@collective/shared';
import type { BlockRequest, ChunkStore, GetChunkOptions } from '../block-store.js';
import { HttpLine } from './http-line.js';

/** The longest chunk of a block (docs/formats/blocks.md). */
export const chunkBytesMax = (blockBytes: number): number => CHUNK_HEADER_BYTES + blockBytes + 28;

export class HttpStore extends HttpLine implements ChunkStore {
  async getChunk(request: BlockRequest, { rank, signal, onBytes }: GetChunkOptions): Promise<Buffer> {
    const answer = await this.request(`/v1/chunks/${request.digest}`, {
      isDemand: rank.fetchClass === 'demand',
      bodyBytesMax: chunkBytesMax(request.blockBytes),
      expectedBytes: request.blockBytes,
      signal,
      onBytes,
    });
    if (answer.status === 200) return answer.body;
    throw this.statusError(answer, `block ${request.digest}`);
  }
}
