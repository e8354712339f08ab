/** FileSystem over node:fs: the real disk. */
import { constants } from 'node:fs';
import { open as openHandle, mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { open as openDescriptor } from 'node:fs';
import { CollectiveError } from '@collective/shared';
import type { FileLock, FileSystem, RandomFile } from './file-system.js';
import { LocalFile, localError } from './local-file.js';
import { takeLocalLock } from './local-lock.js';

const BOOT_ID_PATH = '/proc/sys/kernel/random/boot_id';

const FLAGS = {
  read: constants.O_RDONLY,
  write: constants.O_RDWR,
  create: constants.O_RDWR | constants.O_CREAT | constants.O_EXCL,
} as const;

const guard = async <T>(path: string, work: () => Promise<T>): Promise<T> => {
  try {
    return await work();
  } catch (error) {
    throw error instanceof CollectiveError ? error : localError(error, path);
  }
};

export class LocalFileSystem implements FileSystem {
  open(path: string, mode: 'read' | 'write' | 'create'): Promise<RandomFile> {
    return new Promise((resolve, reject) => {
      openDescriptor(path, FLAGS[mode], 0o600, (error, fd) => {
        if (error !== null) reject(localError(error, path));
        else resolve(new LocalFile(fd, path));
      });
    });
  }

  async readWhole(path: string, byteLengthMax: number): Promise<Buffer | undefined> {
    let handle;
    try {
      handle = await openHandle(path, 'r');
    } catch (error) {
      if (error instanceof Error && Reflect.get(error, 'code') === 'ENOENT') return undefined;
      throw localError(error, path);
    }
    try {
      const { size } = await handle.stat();
      if (size > byteLengthMax) {
        throw new CollectiveError('too-large', `${path} has ${size} bytes, at most ${byteLengthMax} are allowed`);
      }
      return await guard(path, () => readFile(path));
    } finally {
      await handle.close();
    }
  }

  async makeFolder(path: string): Promise<void> {
    await guard(path, () => mkdir(path, { recursive: true, mode: 0o700 }));
  }

  async list(path: string): Promise<string[]> {
    try {
      return await readdir(path);
    } catch (error) {
      if (error instanceof Error && Reflect.get(error, 'code') === 'ENOENT') return [];
      throw localError(error, path);
    }
  }

  rename(from: string, to: string): Promise<void> {
    return guard(to, () => rename(from, to));
  }

  remove(path: string): Promise<void> {
    return guard(path, () => rm(path, { recursive: true, force: true }));
  }

  async syncFolder(path: string): Promise<void> {
    await guard(path, async () => {
      const handle = await openHandle(path, constants.O_RDONLY | constants.O_DIRECTORY);
      try {
        await handle.sync();
      } finally {
        await handle.close();
      }
    });
  }

  lock(path: string): Promise<FileLock> {
    return takeLocalLock(path);
  }

  async bootId(): Promise<string> {
    return (await guard(BOOT_ID_PATH, () => readFile(BOOT_ID_PATH, 'utf8'))).trim();
  }
}
