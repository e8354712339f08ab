/**
 * The one place where the server makes files durable: a temp file in `tmp` of the same folder, its data synced, renamed
 * (or linked, when the name must not exist yet), the folder synced, and once a process every folder above it. When a call
 * resolves, the content survives power loss under its name. When it throws before the rename, the name is untouched;
 * when the sync of the folder fails, the new content may be seen and may be gone after a power cut: callers ask again, or
 * `settle` it. Temp files that a crash left behind lie in the temp folder only and are removed at start.
 */
import { randomUUID } from 'node:crypto';
import { dirname, join } from 'node:path';
import { CollectiveError } from '@collective/shared';
import { type FileSystem } from './file-system.js';

/** Files of one batch whose data is being synced at the same time; libuv's pool has four threads. */
const BATCH_FILES_AT_ONCE = 8;
/** Folders that are remembered as durable; more are synced again. */
const FOLDERS_REMEMBERED = 4_096;
const FILE_MODE = 0o644;
const FOLDER_MODE = 0o755;
/** What is not served as it is. */
const CLOSED_FILE_MODE = 0o600;
const CLOSED_FOLDER_MODE = 0o700;

export type DurableFile = { readonly path: string; readonly bytes: Uint8Array };

export class DurableFiles {
  readonly fileSystem: FileSystem;
  readonly #folder: string;
  readonly #tempFolder: string;
  /** Folders whose names, up to the top, this process has synced: another one may have died between making and syncing. */
  readonly #durableFolders = new Set<string>();

  /** `folder` is the top: what is above it is only made when it is missing. */
  constructor(fileSystem: FileSystem, folder: string) {
    this.fileSystem = fileSystem;
    this.#folder = folder;
    this.#tempFolder = join(folder, 'tmp');
  }

  /** Puts `bytes` at `path`, replacing what was there. Readers see the old or the new file, never a part. */
  async replace(path: string, bytes: Uint8Array, options: { readonly mode?: number } = {}): Promise<void> {
    const temp = await this.#writeTemp(bytes, options.mode);
    try {
      await this.makeFolder(dirname(path));
      await this.fileSystem.rename(temp, path);
    } catch (error) {
      await this.#removeTemp(temp);
      throw error;
    }
    await this.fileSystem.syncFolder(dirname(path));
  }

  /** Puts `bytes` at `path` only if nothing is there; returns whether it did. Of two racing callers one gets true. */
  async create(path: string, bytes: Uint8Array, options: { readonly mode?: number } = {}): Promise<boolean> {
    const temp = await this.#writeTemp(bytes, options.mode);
    try {
      await this.makeFolder(dirname(path));
      if (!(await this.fileSystem.link(temp, path))) return false;
    } finally {
      await this.#removeTemp(temp);
    }
    await this.fileSystem.syncFolder(dirname(path));
    return true;
  }

  /**
   * Puts many files in place, synced once a batch: all data first, then all names, then every folder once. The folders
   * are there. When it throws, some of the files may be there (complete, under their final name) and none may be
   * counted on.
   */
  async replaceMany(files: readonly DurableFile[]): Promise<void> {
    const temps = files.map((file) => ({ file, temp: join(this.#tempFolder, randomUUID()) }));
    try {
      await forEachAtOnce(temps, BATCH_FILES_AT_ONCE, ({ file, temp }) =>
        this.fileSystem.createSynced(temp, file.bytes, FILE_MODE),
      );
      for (const { file, temp } of temps) await this.fileSystem.rename(temp, file.path);
    } catch (error) {
      await Promise.all(temps.map(({ temp }) => this.#removeTemp(temp)));
      throw error;
    }
    const folders = [...new Set(files.map((file) => dirname(file.path)))];
    await forEachAtOnce(folders, BATCH_FILES_AT_ONCE, (folder) => this.fileSystem.syncFolder(folder));
  }

  /** Goes on with a file that grows by parts: `bytes` at `byteOffset` are its end, durable, and so is its name. */
  async writePart(path: string, bytes: Uint8Array, byteOffset: number): Promise<void> {
    await this.makeFolder(dirname(path), CLOSED_FOLDER_MODE);
    await this.fileSystem.writeSynced(path, bytes, byteOffset, CLOSED_FILE_MODE);
    // Later parts find the name durable.
    if (byteOffset === 0) await this.fileSystem.syncFolder(dirname(path));
  }

  /** Gives a file whose data is durable a second name, replacing what was there. */
  async adopt(from: string, to: string): Promise<void> {
    const temp = join(this.#tempFolder, randomUUID());
    try {
      await this.makeFolder(dirname(to));
      await this.fileSystem.link(from, temp);
      await this.fileSystem.rename(temp, to);
    } finally {
      // It is still there when both names were one file already: renaming does nothing then.
      await this.#removeTemp(temp);
    }
    await this.fileSystem.syncFolder(dirname(to));
  }

  /**
   * Makes the name of a file durable that is there: found after a crash, it may have been put in place without the sync
   * (its data is synced before it gets its name).
   */
  async settle(path: string): Promise<void> {
    await this.makeFolder(dirname(path));
    await this.fileSystem.syncFolder(dirname(path));
  }

  /** Makes a folder and its missing parents, and their names durable. */
  async makeFolder(folder: string, mode = FOLDER_MODE): Promise<void> {
    if (this.#durableFolders.has(folder)) return;
    const isAbove = folder === this.#folder || !folder.startsWith(`${this.#folder}/`);
    if (!isAbove || (await this.fileSystem.stat(folder))?.kind !== 'folder') {
      await this.makeFolder(dirname(folder), mode);
      await this.fileSystem.makeFolder(folder, mode);
      await this.fileSystem.syncFolder(dirname(folder));
    }
    if (this.#durableFolders.size >= FOLDERS_REMEMBERED) this.#durableFolders.clear();
    this.#durableFolders.add(folder);
  }

  async #writeTemp(bytes: Uint8Array, mode = FILE_MODE): Promise<string> {
    const temp = join(this.#tempFolder, randomUUID());
    try {
      await this.fileSystem.createSynced(temp, bytes, mode);
    } catch (error) {
      await this.#removeTemp(temp);
      throw error;
    }
    return temp;
  }

  /** What stays here is removed at the next start; it must not hide the error that is on its way. */
  async #removeTemp(temp: string): Promise<void> {
    try {
      await this.fileSystem.remove(temp);
    } catch (error) {
      if (!(error instanceof CollectiveError)) throw error;
    }
  }
}

/** Runs `work` on each item, at most `atOnce` at a time; the first error stops it and is thrown. */
export const forEachAtOnce = async <T>(
  items: readonly T[],
  atOnce: number,
  work: (item: T) => Promise<void>,
): Promise<void> => {
  let next = 0;
  let failed = false;
  const worker = async (): Promise<void> => {
    while (next < items.length && !failed) {
      const item = items[next];
      next += 1;
      if (item === undefined) continue;
      try {
        await work(item);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const ended = await Promise.allSettled(Array.from({ length: Math.min(atOnce, items.length) }, worker));
  for (const end of ended) if (end.status === 'rejected') throw end.reason;
};
