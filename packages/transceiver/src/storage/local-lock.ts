/**
 * FileLock of the local disk: flock and a socket in the abstract namespace, both of which die with the process.
 *
 * Both are always taken where both can be had. flock also excludes processes in other network namespaces and those on a
 * shared file system; the socket also excludes a process that runs without koffi. The socket's name is a random token
 * from the lock file, which only the owner can read, so that no stranger can occupy it beforehand.
 */
import { randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';
import net from 'node:net';
import { CollectiveError } from '@collective/shared';
import { syscalls } from '../blockd/syscalls.js';
import type { FileLock } from './file-system.js';
import { localError } from './local-file.js';

const TOKEN_BYTES = 16;

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

export const takeLocalLock = async (path: string): Promise<FileLock> => {
  const handle = await open(path, 'a+', 0o600).catch((error: unknown) => {
    throw localError(error, path);
  });
  try {
    if (syscalls !== undefined && !syscalls.lockExclusive(handle.fd)) throw inUse(path);
    const token = Buffer.alloc(TOKEN_BYTES);
    const { bytesRead } = await handle.read(token, 0, TOKEN_BYTES, 0);
    if (bytesRead < TOKEN_BYTES) {
      // First use (or a crash in the middle of it). Append mode: of two racers both append, and both then read the first.
      await handle.write(randomBytes(TOKEN_BYTES));
      await handle.read(token, 0, TOKEN_BYTES, 0);
    }
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
