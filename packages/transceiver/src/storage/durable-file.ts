/**
 * The agent's one durable write: a temporary file in the same folder, written, synced, renamed over the old one, and the
 * folder synced. After power loss there is the old file or the new one, whole. Files are 0600.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, readFile, rename, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';

export async function writeDurably(path: string, bytes: Uint8Array | string): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
  await syncFolder(dirname(path));
}

/** Makes the folder (0700), and those that it lies in, when they are missing; their names survive a power cut. */
export async function makeFolderDurably(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    if (isErrno(error, 'ENOENT')) {
      await makeFolderDurably(dirname(path));
      await mkdir(path, { mode: 0o700 });
    } else if (!isErrno(error, 'EEXIST')) throw error;
  }
  // Also of one that was there: whoever made it may have been killed before its sync.
  await syncFolder(dirname(path));
}

export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** The file's bytes, or undefined when there is no such file. */
export async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** Removes the file; one that is not there is fine. */
export async function removeIfThere(path: string): Promise<void> {
  await unlink(path).catch((error: unknown) => {
    if (!isErrno(error, 'ENOENT')) throw error;
  });
}

/**
 * The local disk, what the person may have of it, or what one file may have there, is used up: said by the file system, or by LevelDB, which
 * says it in words.
 */
export const isNoRoom = (error: unknown): error is Error =>
  isErrno(error, 'ENOSPC', 'EDQUOT', 'EFBIG') ||
  (error instanceof Error &&
    'code' in error &&
    String(error.code).startsWith('LEVEL_') &&
    /No space left|quota exceeded/i.test(`${error.message} ${String(error.cause)}`));

export const isErrno = (error: unknown, ...codes: string[]): error is Error =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' && codes.includes(error.code);
