/** Public chunks of a repository, one request each, and parts of boot objects. */
import { CHUNK_HEADER_BYTES, CollectiveError } from '@collective/shared';
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

  /** A part of an object. Errors: as getChunk, `block-missing` when there is no such object any more, `block-corrupt` for another length. */
  async getPart(
    path: string,
    { byteOffset, byteLength }: { readonly byteOffset: number; readonly byteLength: number },
    { rank, signal, onBytes }: GetChunkOptions,
  ): Promise<Buffer> {
    const answer = await this.request(path, {
      isDemand: rank.fetchClass === 'demand',
      headers: { range: `bytes=${byteOffset}-${byteOffset + byteLength - 1}` },
      bodyBytesMax: byteLength,
      expectedBytes: byteLength,
      signal,
      onBytes,
    });
    if (answer.status !== 206 && answer.status !== 200) throw this.statusError(answer, path);
    if (answer.body.length === byteLength) return answer.body;
    throw new CollectiveError('block-corrupt', `${path}: ${answer.body.length} bytes instead of ${byteLength}`, {
      data: { fault: 'net-not-a-block' },
    });
  }
}
