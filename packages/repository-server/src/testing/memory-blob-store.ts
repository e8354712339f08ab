/** A blob store in memory: the double for tests. Content is copied in and out of the map, so nobody shares a buffer. */
import { CollectiveError, type Digest } from '@collective/shared';
import { type BlobName } from '../storage/blob-names.js';
import { type BlobStore, type ChunkListing, type StoredChunk } from '../storage/blob-store.js';
import { type OpenFile } from '../storage/file-system.js';

export class MemoryBlobStore implements BlobStore {
  readonly #files = new Map<string, Buffer>();
  readonly #chunks = new Map<Digest, { readonly chunk: Buffer; readonly modifiedAtMs: number }>();
  readonly #nowMs: () => number;

  constructor(nowMs: () => number = Date.now) {
    this.#nowMs = nowMs;
  }

  async read(name: BlobName): Promise<Buffer | undefined> {
    return this.#files.get(name);
  }

  async create(name: BlobName, bytes: Uint8Array): Promise<boolean> {
    if (this.#files.has(name)) return false;
    this.#files.set(name, Buffer.from(bytes));
    return true;
  }

  async replace(name: BlobName, bytes: Uint8Array): Promise<void> {
    this.#files.set(name, Buffer.from(bytes));
  }

  async writePart(name: BlobName, bytes: Uint8Array, byteOffset: number): Promise<void> {
    const before = this.#files.get(name) ?? Buffer.alloc(0);
    const gap = Buffer.alloc(Math.max(0, byteOffset - before.length));
    this.#files.set(name, Buffer.concat([before.subarray(0, byteOffset), gap, bytes]));
  }

  async adopt(from: BlobName, to: BlobName): Promise<void> {
    const bytes = this.#files.get(from);
    if (bytes === undefined) throw new CollectiveError('local-io', `${from}: ENOENT`);
    this.#files.set(to, bytes);
  }

  async open(name: BlobName): Promise<OpenFile | undefined> {
    const bytes = this.#files.get(name);
    if (bytes === undefined) return undefined;
    return {
      byteLength: bytes.length,
      read: async (byteOffset, byteLength) => {
        if (byteOffset + byteLength > bytes.length) throw new CollectiveError('local-io', `${name}: ends too early`);
        return Buffer.from(bytes.subarray(byteOffset, byteOffset + byteLength));
      },
      close: async () => undefined,
    };
  }

  async settle(_name: BlobName): Promise<void> {}

  async remove(name: BlobName): Promise<void> {
    for (const known of [...this.#files.keys()])
      if (known === name || known.startsWith(`${name}/`)) this.#files.delete(known);
  }

  async list(folder: BlobName): Promise<string[]> {
    const names = new Set<string>();
    for (const name of this.#files.keys()) {
      const first = name.startsWith(`${folder}/`) ? name.slice(folder.length + 1).split('/')[0] : undefined;
      if (first !== undefined) names.add(first);
    }
    return [...names].sort();
  }

  readChunk(digest: Digest): Buffer | undefined {
    return this.#chunks.get(digest)?.chunk;
  }

  async storeChunks(chunks: readonly StoredChunk[]): Promise<void> {
    for (const { digest, chunk } of chunks) {
      this.#chunks.set(digest, { chunk: Buffer.from(chunk), modifiedAtMs: this.#nowMs() });
    }
  }

  async removeChunks(digests: readonly Digest[]): Promise<void> {
    for (const digest of digests) this.#chunks.delete(digest);
  }

  async *listChunks(): AsyncIterable<ChunkListing> {
    for (const [digest, { chunk, modifiedAtMs }] of this.#chunks)
      yield { digest, chunkBytes: chunk.length, modifiedAtMs };
  }

  async listStrayChunkFiles(): Promise<string[]> {
    return [];
  }
}
