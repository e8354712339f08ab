/** Public chunks of a repository, one request each, or in parts. */
import { CHUNK_HEADER_BYTES, CollectiveError, type Digest } from '@collective/shared';
import type { BlockRequest, ChunkStore, GetChunkOptions } from '../block-store.js';
import { HttpLine, type HttpAnswer } from './http-line.js';

/** The longest chunk of a block (docs/formats/blocks.md). */
export const chunkBytesMax = (blockBytes: number): number => CHUNK_HEADER_BYTES + blockBytes + 28;

export class HttpStore extends HttpLine implements ChunkStore {
  async getChunk({ digest, blockBytes }: BlockRequest, options: GetChunkOptions): Promise<Buffer> {
    const answer = await this.#get(digest, options, { most: chunkBytesMax(blockBytes), expected: blockBytes });
    if (answer.status === 200) return answer.body;
    throw this.statusError(answer, `block ${digest}`);
  }

  /** A part of a chunk. Errors: as getChunk, `block-corrupt` for another length. */
  async getPart(
    digest: Digest,
    { byteOffset, byteLength }: { readonly byteOffset: number; readonly byteLength: number },
    options: GetChunkOptions,
  ): Promise<Buffer> {
    const range = `bytes=${byteOffset}-${byteOffset + byteLength - 1}`;
    const answer = await this.#get(digest, options, { most: byteLength, expected: byteLength, headers: { range } });
    if (answer.status !== 206 && answer.status !== 200) throw this.statusError(answer, `chunk ${digest}`);
    if (answer.body.length === byteLength) return answer.body;
    throw new CollectiveError(
      'block-corrupt',
      `${answer.body.length} bytes of chunk ${digest} came instead of ${byteLength}`,
      { data: { fault: 'net-not-a-block' } },
    );
  }

  #get(
    digest: Digest,
    { rank, signal, onBytes }: GetChunkOptions,
    bytes: { readonly most: number; readonly expected: number; readonly headers?: Readonly<Record<string, string>> },
  ): Promise<HttpAnswer> {
    const { most: bodyBytesMax, expected: expectedBytes, headers = {} } = bytes;
    const isDemand = rank.fetchClass === 'demand';
    return this.request(`/v1/chunks/${digest}`, { isDemand, headers, bodyBytesMax, expectedBytes, signal, onBytes });
  }
}
