/**
 * The seam below which the repository's immutable files lie (docs/formats/repository.md). A folder by default; an
 * object store later. Everything that is written is durable when the promise resolves. Names are made by
 * `blob-names.ts` only, so no caller's text ever becomes a path.
 */
import { type Digest } from '@collective/shared';
import { type BlobName } from './blob-names.js';
import { type OpenFile } from './file-system.js';

export type StoredChunk = { readonly digest: Digest; readonly chunk: Uint8Array };
export type ChunkListing = { readonly digest: Digest; readonly chunkBytes: number; readonly modifiedAtMs: number };

export interface BlobStore {
  /** The bytes, read-only for the caller; undefined when there is no such file. */
  read(name: BlobName): Promise<Buffer | undefined>;
  /** Creates the file if its name is free, and says whether it did. Of two racing callers exactly one gets true. */
  create(name: BlobName, bytes: Uint8Array): Promise<boolean>;
  /** Readers see the old or the new bytes, never a mixture. */
  replace(name: BlobName, bytes: Uint8Array): Promise<void>;
  /** Goes on with a file that grows by parts: `bytes` at `byteOffset` are its end. Errors: `disk-full`, also ahead of it. */
  writePart(name: BlobName, bytes: Uint8Array, byteOffset: number): Promise<void>;
  /** Gives a file a second name, replacing what was there: readers see the old or the new one. */
  adopt(from: BlobName, to: BlobName): Promise<void>;
  /** A long file, to be read in pieces of one and the same state; undefined when there is none. */
  open(name: BlobName): Promise<OpenFile | undefined>;
  /** Makes durable what is there, or is not: a crash may have left a name that has been given but not synced. */
  settle(name: BlobName): Promise<void>;
  /** Removes the file if it is there. Not durable by itself: what comes back after a crash is removed again. */
  remove(name: BlobName): Promise<void>;
  /** Names of files and folders directly in a folder, sorted; empty when there is no such folder. */
  list(folder: BlobName): Promise<string[]>;

  /** A stored chunk, read-only. Answers without a promise when the bytes are at hand: this is the hot path. */
  readChunk(digest: Digest): Buffer | undefined | Promise<Buffer | undefined>;
  /** Stores a batch, synced once; replaces equal names (same block, maybe a better payload). */
  storeChunks(chunks: readonly StoredChunk[]): Promise<void>;
  removeChunks(digests: readonly Digest[]): Promise<void>;
  /** Every chunk file that has a well-formed name, in no order. */
  listChunks(): AsyncIterable<ChunkListing>;
  /** Names in the chunk folders that are no chunks: what a scrub reports. */
  listStrayChunkFiles(): Promise<string[]>;
}
