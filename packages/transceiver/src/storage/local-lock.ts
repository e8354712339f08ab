/**
 * FileLock of the local disk: flock and a socket in the abstract namespace, both of which die with the process.
 *
 * Both are always taken where both can be had. flock also excludes processes in other network namespaces and those on a
 * shared file system; the socket also excludes a process that runs without koffi. The socket's name is a random token
 * from the lock file, which only the owner can read, so that no stranger can occupy it beforehand.
 */
import { randomBytes } from 'node:crypto';
import { open, type FileHandle } from 'node:fs/promises';
import net from 'node:net';
import { CollectiveError } from '@collective/shared';
import { syscalls } from '../blockd/syscalls.js';
import type { FileLock } from './file-system.js';
import { localError } from './local-file.js';

const TOKEN_BYTES = 16;
/** Tokens that are looked at: each power cut in the middle of a first use may cost one. */
const TOKENS_MAX = 64;

const inUse = (path: string): CollectiveError =>
  new CollectiveError('in-use', `${path} is locked by another process`, { data: { path } });

const listenAbstract = (name: string, path: string): Promise<net.Server> =>
  new Promise((resolve, reject) => {
    const server = net.createServer((socket) => socket.destroy());
    server.once('error', (error) => {
      reject(Reflect.get(error, 'code') === 'EADDRINUSE' ? inUse(path) : localError(error, path));
    });
    server.listen(`\0${name}`, () => {
      server.unref();
      resolve(server);
    });
  });

/**
 * The first whole token. It is never synced, so a power cut may have left zeroes in its place; taken for a token they would make all such
 * locks of a machine one.
 */
const readToken = async (handle: FileHandle): Promise<Buffer | undefined> => {
  const bytes = Buffer.alloc(TOKENS_MAX * TOKEN_BYTES);
  const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0);
  for (let at = 0; at + TOKEN_BYTES <= bytesRead; at += TOKEN_BYTES) {
    const token = bytes.subarray(at, at + TOKEN_BYTES);
    if (token.some((byte) => byte !== 0)) return token;
  }
  return undefined;
};

export const takeLocalLock = async (path: string): Promise<FileLock> => {
  const handle = await open(path, 'a+', 0o600).catch((error: unknown) => {
    throw localError(error, path);
  });
  try {
    if (syscalls !== undefined && !syscalls.lockExclusive(handle.fd)) throw inUse(path);
    let token = await readToken(handle);
    if (token === undefined) {
      // First use, or a crash in the middle of it. Append mode: of two racers both append, and both then read the first.
      await handle.write(randomBytes(TOKEN_BYTES));
      token = await readToken(handle);
    }
    if (token === undefined) throw new CollectiveError('local-io', `${path} is not kept as it was written`);
    const server = await listenAbstract(`collective-${token.toString('hex')}`, path);
    let released = false;
    return {
      release: async () => {
        if (released) return;
        released = true;
        await new Promise<void>((resolve) => server.close(() => resolve()));
        await handle.close();
      },
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
};
