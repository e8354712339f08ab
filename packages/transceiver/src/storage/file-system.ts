/**
 * The seam between the block path and the local disk.
 *
 * Everything that must survive kill -9 or a power cut goes through it, so that a double which keeps what was written
 * and what was synced apart can take the real one's place. Its promises are those of POSIX and no more: a write is in the
 * page cache when it returns (kill -9 loses nothing of it), and on the medium only after `sync` of the file; a name is
 * on the medium only after `syncFolder` of its folder; unsynced writes may reach the medium in any order, or not at all.
 *
 * As in BlockDevice there are two speeds: the `try` calls work at once on the calling thread or say that they would have
 * to wait; the others use the thread pool. Errors of all calls: `disk-full`, `local-io` (with path and errno in `data`).
 */
import type { Extent } from '../blockd/block-device.js';

export interface FileSystem {
  /** `create` makes a new empty file and fails with `exists` when the name is taken. `not-found` when there is none. */
  open(path: string, mode: 'read' | 'write' | 'create'): Promise<RandomFile>;
  /** The whole file, or undefined when there is none. Error `too-large` when it is longer than `byteLengthMax`. */
  readWhole(path: string, byteLengthMax: number): Promise<Buffer | undefined>;
  /** Makes one folder, mode 0700; fine when it is there already. */
  makeFolder(path: string): Promise<void>;
  /** The names in a folder, unordered; empty when there is no such folder. */
  list(path: string): Promise<string[]>;
  /** Replaces `to`. Atomic for every reader; durable after `syncFolder`. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file or a folder with all it holds; fine when it is not there. */
  remove(path: string): Promise<void>;
  /** Makes the names in a folder durable. */
  syncFolder(path: string): Promise<void>;
  /** Takes the lock named by `path` (a file that is made when missing). Error `in-use` at once when somebody has it. */
  lock(path: string): Promise<FileLock>;
  /** Changes exactly when page caches are lost: the machine's boot id. */
  bootId(): Promise<string>;
}

/** Held until released, or until the process ends in any way. */
export interface FileLock {
  release(): Promise<void>;
}

/** A file that is read and written by position. Positions and lengths are bytes. */
export interface RandomFile {
  readonly path: string;
  /** Fills all of `target` without waiting; false when it would have to, or when the file is shorter. */
  tryRead(target: Uint8Array, byteOffset: number): boolean;
  /** Fills all of `target`; `local-io` when the file is shorter. */
  read(target: Uint8Array, byteOffset: number): Promise<void>;
  /** Whether a `tryWrite` of so many bytes in this turn would begin at all; after false it writes nothing. */
  mayTryWrite(byteLength: number): boolean;
  /** Writes all of `source` to the page cache at once. False: it would have to wait or failed, and the range may hold a part. */
  tryWrite(source: Uint8Array, byteOffset: number): boolean;
  /** As `tryWrite`, and may wait. `source` is borrowed until it settles. After an error the range may hold a part. */
  write(source: Uint8Array, byteOffset: number): Promise<void>;
  /** Writes a few bytes on the calling thread, waiting if need be: for bookkeeping whose order matters. Throws. */
  writeNow(source: Uint8Array, byteOffset: number): void;
  /** Data (and what is needed to find it) that was written before the call is on the medium: fdatasync. */
  sync(): Promise<void>;
  /** The range reads as zeroes. `keepAllocated`: its space stays reserved; otherwise it is given back where that can be. */
  zero(byteOffset: number, byteLength: number, options: { readonly keepAllocated: boolean }): Promise<void>;
  /** Whether `zero` is much cheaper than writing zeroes. */
  readonly zeroIsFast: boolean;
  /** Where the range holds data and where nothing, covering it exactly. All `data` where the file system cannot tell. */
  extents(byteOffset: number, byteLength: number): Extent[];
  byteLength(): Promise<number>;
  /** The same at once, on the calling thread. Throws. */
  byteLengthNow(): number;
  /** Sets the length; a longer file reads as zeroes there and takes no space. */
  setByteLength(byteLength: number): Promise<void>;
  /** A hint that the range will be read soon. */
  willRead(byteOffset: number, byteLength: number): void;
  /** A hint that what is clean of the range should leave the memory, so that the next read of it comes from the medium. */
  dropFromMemory(byteOffset: number, byteLength: number): void;
  /** The descriptor, for hints by `syscalls` (posix_fadvise); undefined in a double. */
  readonly descriptor: number | undefined;
  close(): Promise<void>;
}

/** Replaces the file `path` by `bytes` so that a crash leaves the old or the new content whole. Durable when it resolves. */
export const replaceFileDurably = async (
  fileSystem: FileSystem,
  location: { readonly folder: string; readonly name: string },
  bytes: Uint8Array,
): Promise<void> => {
  const path = `${location.folder}/${location.name}`;
  const temporary = `${path}.new`;
  await fileSystem.remove(temporary);
  const file = await fileSystem.open(temporary, 'create');
  try {
    await file.write(bytes, 0);
    await file.sync();
  } finally {
    await file.close();
  }
  await fileSystem.rename(temporary, path);
  await fileSystem.syncFolder(location.folder);
};
