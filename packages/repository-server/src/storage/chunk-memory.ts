/**
 * Keeps the chunks that were read last in memory, in front of a blob store: a boot set is asked for by everybody at the
 * same time. Bounded in bytes; a chunk under a digest never changes its meaning, so nothing here can be stale.
 */
import { type Digest } from '@collective/shared';
import { type BlobName } from './blob-names.js';
import { type BlobStore, type ChunkListing, type StoredChunk } from './blob-store.js';
import { type OpenFile } from './file-system.js';

/** What a kept chunk costs beyond its bytes. */
const ENTRY_BYTES = 256;

export class ChunkMemory implements BlobStore {
  readonly #next: BlobStore;
  readonly #bytesMax: number;
  /** Two generations: what is used in the old one moves to the young one; a full young one becomes the old one. */
  #young = new Map<Digest, Buffer>();
  #old = new Map<Digest, Buffer>();
  #youngBytes = 0;

  constructor(next: BlobStore, options: { readonly bytesMax: number }) {
    this.#next = next;
    this.#bytesMax = options.bytesMax;
  }

  readChunk(digest: Digest): Buffer | undefined | Promise<Buffer | undefined> {
    const young = this.#young.get(digest);
    if (young !== undefined) return young;
    const old = this.#old.get(digest);
    if (old !== undefined) return this.#keep(digest, old);
    const found = this.#next.readChunk(digest);
    if (found instanceof Promise) return found.then((chunk) => this.#keep(digest, chunk));
    return this.#keep(digest, found);
  }

  async storeChunks(chunks: readonly StoredChunk[]): Promise<void> {
    await this.#next.storeChunks(chunks);
    this.#forget(chunks.map(({ digest }) => digest));
  }

  async removeChunks(digests: readonly Digest[]): Promise<void> {
    await this.#next.removeChunks(digests);
    this.#forget(digests);
  }

  read(name: BlobName): Promise<Buffer | undefined> {
    return this.#next.read(name);
  }
  create(name: BlobName, bytes: Uint8Array): Promise<boolean> {
    return this.#next.create(name, bytes);
  }
  replace(name: BlobName, bytes: Uint8Array): Promise<void> {
    return this.#next.replace(name, bytes);
  }
  writePart(name: BlobName, bytes: Uint8Array, byteOffset: number): Promise<void> {
    return this.#next.writePart(name, bytes, byteOffset);
  }
  adopt(from: BlobName, to: BlobName): Promise<void> {
    return this.#next.adopt(from, to);
  }
  open(name: BlobName): Promise<OpenFile | undefined> {
    return this.#next.open(name);
  }
  settle(name: BlobName): Promise<void> {
    return this.#next.settle(name);
  }
  remove(name: BlobName): Promise<void> {
    return this.#next.remove(name);
  }
  list(folder: BlobName): Promise<string[]> {
    return this.#next.list(folder);
  }
  listChunks(): AsyncIterable<ChunkListing> {
    return this.#next.listChunks();
  }
  listStrayChunkFiles(): Promise<string[]> {
    return this.#next.listStrayChunkFiles();
  }

  #keep(digest: Digest, chunk: Buffer | undefined): Buffer | undefined {
    if (chunk === undefined) return undefined;
    this.#young.set(digest, chunk);
    this.#youngBytes += chunk.length + ENTRY_BYTES;
    if (this.#youngBytes > this.#bytesMax / 2) {
      this.#old = this.#young;
      this.#young = new Map();
      this.#youngBytes = 0;
    }
    return chunk;
  }

  #forget(digests: readonly Digest[]): void {
    for (const digest of digests) {
      const young = this.#young.get(digest);
      if (young !== undefined) this.#youngBytes -= young.length + ENTRY_BYTES;
      this.#young.delete(digest);
      this.#old.delete(digest);
    }
  }
}
