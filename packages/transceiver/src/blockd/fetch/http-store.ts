/** Public chunks of a repository, one request each, or in parts. */
import { CHUNK_HEADER_BYTES, CollectiveError, type Digest } from '@collective/shared';
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

  /** A part of a chunk. Errors: as getChunk, `block-corrupt` for another length. */
  async getPart(
    digest: Digest,
    { byteOffset, byteLength }: { readonly byteOffset: number; readonly byteLength: number },
    { rank, signal, onBytes }: GetChunkOptions,
  ): Promise<Buffer> {
    const answer = await this.request(`/v1/chunks/${digest}`, {
      isDemand: rank.fetchClass === 'demand',
      headers: { range: `bytes=${byteOffset}-${byteOffset + byteLength - 1}` },
      bodyBytesMax: byteLength,
      expectedBytes: byteLength,
      signal,
      onBytes,
    });
    if (answer.status !== 206 && answer.status !== 200) throw this.statusError(answer, `chunk ${digest}`);
    if (answer.body.length === byteLength) return answer.body;
    throw new CollectiveError(
      'block-corrupt',
      `${answer.body.length} bytes of chunk ${digest} came instead of ${byteLength}`,
      { data: { fault: 'net-not-a-block' } },
    );
  }
}
