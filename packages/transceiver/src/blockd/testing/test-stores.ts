/** Stores for tests: from memory, with gates, counting, failing as told. They implement the real interfaces. */
import { CollectiveError, type Digest } from '@collective/shared';
import type { BlockRequest, BlockStore, ChunkStore, GetChunkOptions, GetOptions } from '../block-store.js';

export const requestFor = (digest: Digest, blockBytes = 65_536): BlockRequest => ({
  digest,
  blockBytes,
  neighbourhood: 0,
});

/** Answers from a map; `block-missing` for what is not there. */
export class MemoryStore implements BlockStore, ChunkStore {
  readonly #content: ReadonlyMap<Digest, Buffer>;
  readonly asked: Digest[] = [];

  constructor(content: ReadonlyMap<Digest, Buffer>) {
    this.#content = content;
  }

  get(request: BlockRequest, options: GetOptions): Promise<Buffer> {
    if (options.signal?.aborted === true) return Promise.reject(options.signal.reason as Error);
    this.asked.push(request.digest);
    const found = this.#content.get(request.digest);
    return found === undefined
      ? Promise.reject(new CollectiveError('block-missing', request.digest))
      : Promise.resolve(found);
  }

  getChunk(request: BlockRequest, options: GetChunkOptions): Promise<Buffer> {
    return this.get(request, options);
  }
}

export type GatedCall = {
  readonly request: BlockRequest;
  readonly options: GetChunkOptions;
  readonly resolve: (bytes: Buffer) => void;
  readonly reject: (error: Error) => void;
};

/** Every call waits until the test answers it; abort rejects it, as of a real store. */
export class GatedStore implements BlockStore, ChunkStore {
  readonly calls: GatedCall[] = [];
  aborted = 0;

  get(request: BlockRequest, options: GetOptions): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.calls.push({ request, options, resolve, reject });
      options.signal?.addEventListener('abort', () => {
        this.aborted += 1;
        reject(options.signal?.reason as Error);
      });
    });
  }

  getChunk(request: BlockRequest, options: GetChunkOptions): Promise<Buffer> {
    return this.get(request, options);
  }

  call(index: number): GatedCall {
    const call = this.calls[index];
    if (call === undefined) throw new Error(`call ${index} was not made`);
    return call;
  }
}
