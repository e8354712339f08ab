/**
 * One agent a home. The lock is an abstract unix socket, which the kernel takes away with the process, kill -9 included:
 * nothing stale can remain and nothing needs to be cleaned up. Its name is a random one that only the home's owner can
 * read, so that nobody else on the machine can hold it first.
 *
 * Abstract names belong to the network namespace. Two agents in different namespaces that share a folder are caught by
 * the second lock, that of the object cache (`objects/LOCK`, fcntl).
 */
import { createServer, type Server } from 'node:net';
import { open } from 'node:fs/promises';
import { CollectiveError } from '@collective/shared';
import { isErrno, readIfThere } from './durable-file.js';
import { newLockName, type Home } from './home.js';

export class HomeLock {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Errors: `in-use` when another agent has this home. */
  static async take(home: Pick<Home, 'lockNameFile' | 'directory'>): Promise<HomeLock> {
    const name = await lockName(home.lockNameFile);
    const server = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => {
        reject(
          isErrno(error, 'EADDRINUSE')
            ? new CollectiveError('in-use', `Another agent is using the home ${home.directory}.`, { data: { home: home.directory } })
            : error,
        );
      });
      server.listen(`\0collective-home-${name}`, resolve);
    });
    server.unref();
    return new HomeLock(server);
  }

  async release(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

async function lockName(path: string): Promise<string> {
  const held = await readIfThere(path);
  if (held?.length === 16) return held.toString('hex');
  try {
    // Exclusive: of two first agents one names the lock, the other reads that name.
    const file = await open(path, held === undefined ? 'wx' : 'w', 0o600);
    try {
      await file.write(newLockName());
    } finally {
      await file.close();
    }
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
  const made = await readIfThere(path);
  if (made?.length !== 16) throw new CollectiveError('in-use', `Another agent is just starting (${path} is being written).`);
  return made.toString('hex');
}
