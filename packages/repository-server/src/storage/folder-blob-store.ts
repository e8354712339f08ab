/**
 * A repository as a folder: the layout of docs/formats/repository.md, so that other programs can read, copy and serve
 * it. Chunk files are read on the calling thread while the medium answers at once, and through the thread pool for half
 * a second after several reads took long, so that a cold or failing disk does not stop the other requests.
 */
import { join } from 'node:path';
import { CollectiveError, type Digest, isDigest } from '@collective/shared';
import { type BlobName } from './blob-names.js';
import { type BlobStore, type ChunkListing, type StoredChunk } from './blob-store.js';
import { DurableFiles, forEachAtOnce } from './durable-file.js';
import { type FileSystem, type FolderEntry, type OpenFile } from './file-system.js';
import { localFileSystem } from './local-file-system.js';

// One slow read says little: on a busy machine the kernel may just have run somebody else.
const SLOW_READ_MS = 2;
const SLOW_READS_MAX = 4;
const ASYNC_AFTER_SLOW_MS = 500;
const REMOVES_AT_ONCE = 8;
/** Left free on the disk by uploads. */
const FREE_BYTES_MIN = 256 * 1_048_576;

export type FolderOptions = {
  readonly freeBytesMin?: number;
  readonly fileSystem?: FileSystem;
  /** What the speed of reads is measured with. */
  readonly nowMs?: () => number;
};

export class FolderBlobStore implements BlobStore {
  readonly #folder: string;
  readonly #tempFolder: string;
  readonly #fileSystem: FileSystem;
  readonly #files: DurableFiles;
  readonly #freeBytesMin: number;
  readonly #nowMs: () => number;
  /** Slow reads, forgotten at a rate of one in 64 reads. */
  #slowReads = 0;
  #asyncUntilMs = 0;

  private constructor(folder: string, options: FolderOptions) {
    this.#freeBytesMin = options.freeBytesMin ?? FREE_BYTES_MIN;
    this.#nowMs = options.nowMs ?? (() => performance.now());
    this.#folder = folder;
    this.#tempFolder = join(folder, 'tmp');
    this.#fileSystem = options.fileSystem ?? localFileSystem;
    this.#files = new DurableFiles(this.#fileSystem, folder);
  }

  /** Makes what is missing of the folder's skeleton (`tmp` and `users`, closed to others; the 256 chunk folders). */
  static async open(folder: string, options: FolderOptions = {}): Promise<FolderBlobStore> {
    const store = new FolderBlobStore(folder, options);
    const fileSystem = store.#fileSystem;
    const chunks = join(folder, 'chunks');
    await store.#files.makeFolder(store.#tempFolder, 0o700);
    await store.#files.makeFolder(join(folder, 'users'), 0o700);
    await store.#files.makeFolder(chunks);
    const present = new Set((await fileSystem.list(chunks)).map(({ name }) => name));
    for (const name of CHUNK_FOLDERS) if (!present.has(name)) await fileSystem.makeFolder(join(chunks, name), 0o755);
    // Those too that were there: whoever made them may have died before this.
    await fileSystem.syncFolder(chunks);
    return store;
  }

  /** What a crash left half written. Only the one process that serves the folder may call it, at its start. */
  async emptyTempFolder(): Promise<number> {
    const entries = await this.#fileSystem.list(this.#tempFolder);
    await forEachAtOnce(entries, REMOVES_AT_ONCE, ({ name }) => this.#fileSystem.remove(join(this.#tempFolder, name)));
    return entries.length;
  }

  async read(name: BlobName): Promise<Buffer | undefined> {
    return this.#fileSystem.read(join(this.#folder, name));
  }

  async create(name: BlobName, bytes: Uint8Array): Promise<boolean> {
    return this.#files.create(join(this.#folder, name), bytes);
  }

  async replace(name: BlobName, bytes: Uint8Array): Promise<void> {
    await this.#files.replace(join(this.#folder, name), bytes);
  }

  async writePart(name: BlobName, bytes: Uint8Array, byteOffset: number): Promise<void> {
    await this.#requireRoom(bytes.length);
    await this.#files.writePart(join(this.#folder, name), bytes, byteOffset);
  }

  async adopt(from: BlobName, to: BlobName): Promise<void> {
    await this.#files.adopt(join(this.#folder, from), join(this.#folder, to));
  }

  async open(name: BlobName): Promise<OpenFile | undefined> {
    return this.#fileSystem.open(join(this.#folder, name));
  }

  async settle(name: BlobName): Promise<void> {
    await this.#files.settle(join(this.#folder, name));
  }

  async remove(name: BlobName): Promise<void> {
    await this.#fileSystem.remove(join(this.#folder, name));
  }

  async list(folder: BlobName): Promise<string[]> {
    return (await this.#fileSystem.list(join(this.#folder, folder))).map(({ name }) => name).sort();
  }

  readChunk(digest: Digest): Buffer | undefined | Promise<Buffer | undefined> {
    const startMs = this.#nowMs();
    const path = this.#chunkPath(digest);
    if (startMs < this.#asyncUntilMs) return this.#fileSystem.read(path);
    try {
      return this.#fileSystem.readNow(path);
    } finally {
      this.#watchSpeed(this.#nowMs(), startMs);
    }
  }

  async storeChunks(chunks: readonly StoredChunk[]): Promise<void> {
    await this.#requireRoom(chunks.reduce((sum, { chunk }) => sum + chunk.length, 0));
    const files = chunks.map(({ digest, chunk }) => ({ path: this.#chunkPath(digest), bytes: chunk }));
    await this.#files.replaceMany(files);
  }

  async removeChunks(digests: readonly Digest[]): Promise<void> {
    await forEachAtOnce(digests, REMOVES_AT_ONCE, (digest) => this.#fileSystem.remove(this.#chunkPath(digest)));
  }

  async *listChunks(): AsyncIterable<ChunkListing> {
    for (const folder of CHUNK_FOLDERS) {
      for (const entry of await this.#fileSystem.list(join(this.#folder, 'chunks', folder))) {
        if (!isChunkFile(folder, entry)) continue;
        const found = await this.#fileSystem.stat(join(this.#folder, 'chunks', folder, entry.name));
        if (found === undefined || !isDigest(entry.name)) continue;
        yield { digest: entry.name, chunkBytes: found.byteLength, modifiedAtMs: found.modifiedAtMs };
      }
    }
  }

  async listStrayChunkFiles(): Promise<string[]> {
    const strays: string[] = [];
    for (const name of (await this.#fileSystem.list(join(this.#folder, 'chunks'))).map((entry) => entry.name).sort()) {
      if (!CHUNK_FOLDER_SET.has(name)) {
        strays.push(`chunks/${name}`);
        continue;
      }
      for (const entry of await this.#fileSystem.list(join(this.#folder, 'chunks', name))) {
        if (!isChunkFile(name, entry)) strays.push(`chunks/${name}/${entry.name}`);
      }
    }
    return strays;
  }

  // Uploads stop before the disk is full, so that the catalogue, manifests and heads can still be written.
  async #requireRoom(addedBytes: number): Promise<void> {
    const freeBytes = await this.#fileSystem.freeBytes(this.#folder);
    if (freeBytes - addedBytes >= this.#freeBytesMin) return;
    throw new CollectiveError(
      'disk-full',
      `${freeBytes} bytes are free on the repository's disk; ${this.#freeBytesMin} are kept free`,
    );
  }

  #watchSpeed(endMs: number, startMs: number): void {
    this.#slowReads = Math.max(0, this.#slowReads - 1 / 64);
    if (endMs - startMs <= SLOW_READ_MS) return;
    this.#slowReads += 1;
    if (this.#slowReads < SLOW_READS_MAX) return;
    this.#slowReads = 0;
    this.#asyncUntilMs = endMs + ASYNC_AFTER_SLOW_MS;
  }

  #chunkPath(digest: Digest): string {
    return `${this.#folder}/chunks/${digest.slice(0, 2)}/${digest}`;
  }
}

const CHUNK_FOLDERS: readonly string[] = Array.from({ length: 256 }, (_, index) => index.toString(16).padStart(2, '0'));
const CHUNK_FOLDER_SET: ReadonlySet<string> = new Set(CHUNK_FOLDERS);

const isChunkFile = (folder: string, { kind, name }: FolderEntry): boolean =>
  kind === 'file' && isDigest(name) && name.startsWith(folder);
