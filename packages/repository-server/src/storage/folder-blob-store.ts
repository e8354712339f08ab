/**
 * A repository as a folder: the layout of docs/formats/repository.md, so that other programs can read, copy and serve
 * it. Chunk files are read synchronously while the medium answers at once (page cache: 10 to 20 µs for open, read
 * and close, against 70 µs through libuv's pool) and asynchronously for half a second after several reads took long, so
 * that a cold or failing disk does not stop the other requests.
 */
import { closeSync, fstatSync, openSync, readSync, type Dirent } from 'node:fs';
import { mkdir, readdir, readFile, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError, type Digest, isDigest } from '@collective/shared';
import { type BlobName } from './blob-names.js';
import { type BlobStore, type ChunkListing, type StoredChunk } from './blob-store.js';
import {
  createFile,
  forEachAtOnce,
  isErrno,
  makeFolder,
  replaceFile,
  replaceFiles,
  syncFolder,
} from './durable-file.js';

// One slow read says little: on a busy machine the kernel may just have run somebody else.
const SLOW_READ_MS = 2;
const SLOW_READS_MAX = 4;
const ASYNC_AFTER_SLOW_MS = 500;
const REMOVES_AT_ONCE = 8;
/** Left free on the disk by uploads. */
const FREE_BYTES_MIN = 256 * 1_048_576;

export class FolderBlobStore implements BlobStore {
  readonly #folder: string;
  readonly #tempFolder: string;
  readonly #freeBytesMin: number;
  /** Slow reads, forgotten at a rate of one in 64 reads. */
  #slowReads = 0;
  #asyncUntilMs = 0;

  private constructor(folder: string, freeBytesMin: number) {
    this.#freeBytesMin = freeBytesMin;
    this.#folder = folder;
    this.#tempFolder = join(folder, 'tmp');
  }

  /** Makes what is missing of the folder's skeleton (`tmp` and `users`, closed to others; the 256 chunk folders). */
  static async open(folder: string, options: { readonly freeBytesMin?: number } = {}): Promise<FolderBlobStore> {
    const store = new FolderBlobStore(folder, options.freeBytesMin ?? FREE_BYTES_MIN);
    await makeFolder(store.#tempFolder, 0o700);
    await makeFolder(join(folder, 'users'), 0o700);
    await makeFolder(join(folder, 'chunks'));
    const present = new Set(await readdir(join(folder, 'chunks')));
    const missing = CHUNK_FOLDERS.filter((name) => !present.has(name));
    for (const name of missing) await mkdir(join(folder, 'chunks', name));
    if (missing.length > 0) await syncFolder(join(folder, 'chunks'));
    return store;
  }

  /** What a crash left half written. Only the one process that serves the folder may call it, at its start. */
  async emptyTempFolder(): Promise<number> {
    const names = await readdir(this.#tempFolder);
    await forEachAtOnce(names, REMOVES_AT_ONCE, (name) =>
      rm(join(this.#tempFolder, name), { recursive: true, force: true }),
    );
    return names.length;
  }

  async read(name: BlobName): Promise<Buffer | undefined> {
    try {
      return await readFile(join(this.#folder, name));
    } catch (error) {
      if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return undefined;
      throw readError(error, name);
    }
  }

  async create(name: BlobName, bytes: Uint8Array): Promise<boolean> {
    return createFile(join(this.#folder, name), bytes, { tempFolder: this.#tempFolder });
  }

  async replace(name: BlobName, bytes: Uint8Array): Promise<void> {
    await replaceFile(join(this.#folder, name), bytes, { tempFolder: this.#tempFolder });
  }

  async remove(name: BlobName): Promise<void> {
    await rm(join(this.#folder, name), { force: true });
  }

  async list(folder: BlobName): Promise<string[]> {
    try {
      return (await readdir(join(this.#folder, folder))).sort();
    } catch (error) {
      if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return [];
      throw readError(error, folder);
    }
  }

  readChunk(digest: Digest): Buffer | undefined | Promise<Buffer | undefined> {
    const startMs = performance.now();
    const path = this.#chunkPath(digest);
    if (startMs < this.#asyncUntilMs) return readWhole(path, digest);
    try {
      return readWholeSync(path);
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return undefined;
      throw readError(error, digest);
    } finally {
      this.#watchSpeed(performance.now(), startMs);
    }
  }

  async storeChunks(chunks: readonly StoredChunk[]): Promise<void> {
    await this.#requireRoom(chunks.reduce((sum, { chunk }) => sum + chunk.length, 0));
    const files = chunks.map(({ digest, chunk }) => ({ path: this.#chunkPath(digest), bytes: chunk }));
    await replaceFiles(files, { tempFolder: this.#tempFolder });
  }

  async removeChunks(digests: readonly Digest[]): Promise<void> {
    await forEachAtOnce(digests, REMOVES_AT_ONCE, (digest) => rm(this.#chunkPath(digest), { force: true }));
  }

  async *listChunks(): AsyncIterable<ChunkListing> {
    for (const folder of CHUNK_FOLDERS) {
      for (const entry of await this.#chunkFolderEntries(folder)) {
        if (!isChunkFile(folder, entry)) continue;
        const found = await statOf(join(this.#folder, 'chunks', folder, entry.name));
        if (found === undefined || !isDigest(entry.name)) continue;
        yield { digest: entry.name, chunkBytes: found.size, modifiedAtMs: found.mtimeMs };
      }
    }
  }

  async listStrayChunkFiles(): Promise<string[]> {
    const strays: string[] = [];
    for (const name of (await readdir(join(this.#folder, 'chunks'))).sort()) {
      if (!CHUNK_FOLDER_SET.has(name)) {
        strays.push(`chunks/${name}`);
        continue;
      }
      for (const entry of await this.#chunkFolderEntries(name)) {
        if (!isChunkFile(name, entry)) strays.push(`chunks/${name}/${entry.name}`);
      }
    }
    return strays;
  }

  // Uploads stop before the disk is full, so that the catalogue, manifests and heads can still be written.
  async #requireRoom(chunkBytes: number): Promise<void> {
    const { bavail, bsize } = await statfs(this.#folder);
    const freeBytes = bavail * bsize;
    if (freeBytes - chunkBytes >= this.#freeBytesMin) return;
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

  async #chunkFolderEntries(folder: string): Promise<Dirent[]> {
    try {
      return await readdir(join(this.#folder, 'chunks', folder), { withFileTypes: true });
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return [];
      throw readError(error, folder);
    }
  }

  #chunkPath(digest: Digest): string {
    return `${this.#folder}/chunks/${digest.slice(0, 2)}/${digest}`;
  }
}

const CHUNK_FOLDERS: readonly string[] = Array.from({ length: 256 }, (_, index) => index.toString(16).padStart(2, '0'));
const CHUNK_FOLDER_SET: ReadonlySet<string> = new Set(CHUNK_FOLDERS);

const isChunkFile = (folder: string, entry: Dirent): boolean =>
  entry.isFile() && isDigest(entry.name) && entry.name.startsWith(folder);

const readWholeSync = (path: string): Buffer => {
  const descriptor = openSync(path, 'r');
  try {
    const bytes = Buffer.allocUnsafe(fstatSync(descriptor).size);
    let filled = 0;
    while (filled < bytes.length) {
      const count = readSync(descriptor, bytes, filled, bytes.length - filled, null);
      if (count === 0) break;
      filled += count;
    }
    return bytes.subarray(0, filled);
  } finally {
    closeSync(descriptor);
  }
};

const readWhole = async (path: string, digest: Digest): Promise<Buffer | undefined> => {
  try {
    return await readFile(path);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw readError(error, digest);
  }
};

const statOf = async (path: string): Promise<{ readonly size: number; readonly mtimeMs: number } | undefined> => {
  try {
    return await stat(path);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
};

const readError = (error: unknown, what: string): Error =>
  new CollectiveError('local-io', `${what} cannot be read: ${error instanceof Error ? error.message : String(error)}`, {
    cause: error,
  });
