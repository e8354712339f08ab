/**
 * The seam between the repository server and its disk: what durable files, chunk folders, secrets and settings need, so
 * that a double which keeps what was written and what was synced apart can take the real one's place
 * (test/simulation). Its promises are those of POSIX and no more: bytes are on the medium only after `createSynced`,
 * a name, its renaming or its removal only after `syncFolder` of its folder. SQLite files do not go through it.
 *
 * Errors of all calls: `disk-full`, `local-io`, with the path and the errno in the message.
 */
export interface FileSystem {
  /**
   * Makes a new file with these bytes, and its data durable; its name is not. After an error the file may be there with
   * a part of the bytes.
   */
  createSynced(path: string, bytes: Uint8Array, mode: number): Promise<void>;
  /**
   * Puts bytes at an offset of a file, which is made when it is missing, lets the file end behind them, and makes its data
   * durable; its name is not. After an error the file may have any bytes from that offset on.
   */
  writeSynced(path: string, bytes: Uint8Array, byteOffset: number, mode: number): Promise<void>;
  /** A second name for the file; false when the new name is taken. Of two racing callers one gets true. */
  link(from: string, to: string): Promise<boolean>;
  /** Replaces `to`. Atomic for every reader; durable after `syncFolder`. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file or a folder with all it holds; fine when it is not there. */
  remove(path: string): Promise<void>;
  /** Makes one folder; false when it is there already. */
  makeFolder(path: string, mode: number): Promise<boolean>;
  /** Makes the names in a folder durable, those too that another process made. */
  syncFolder(path: string): Promise<void>;
  /** The whole file, or undefined when there is none. */
  read(path: string): Promise<Buffer | undefined>;
  /** A file to be read in pieces; undefined when there is none. */
  open(path: string): Promise<OpenFile | undefined>;
  /** The same as `read` on the calling thread. */
  readNow(path: string): Buffer | undefined;
  /** What a folder holds, unordered; empty when there is no such folder. */
  list(path: string): Promise<FolderEntry[]>;
  /** Undefined when there is no such file. */
  stat(path: string): Promise<FileStat | undefined>;
  /** Bytes that may still be written to the file system of `path`. */
  freeBytes(path: string): Promise<number>;
}

/** What is read stays one file, also when another one takes its name meanwhile. */
export interface OpenFile {
  readonly byteLength: number;
  /** Exactly these bytes, the caller's own. Errors: `local-io`, also when the file ends before. */
  read(byteOffset: number, byteLength: number): Promise<Buffer>;
  close(): Promise<void>;
}

export type FolderEntry = { readonly name: string; readonly kind: 'file' | 'folder' | 'other' };
export type FileStat = {
  readonly kind: FolderEntry['kind'];
  readonly byteLength: number;
  readonly modifiedAtMs: number;
};
