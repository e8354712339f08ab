/** Connecting to a unix socket that may not be there yet: QEMU makes its own a moment after it was started. */
import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

export type ConnectOptions = {
  /** How long to try again while nobody listens; 0 (default): once. */
  readonly waitMs?: number;
  readonly signal?: AbortSignal;
};

const RETRY_MS = 20;

/** The connected socket. Errors: the last system error (ENOENT, ECONNREFUSED…), or the signal's reason. */
export async function connectUnix(path: string, { waitMs = 0, signal }: ConnectOptions = {}): Promise<Socket> {
  const giveUpAt = performance.now() + waitMs;
  for (;;) {
    signal?.throwIfAborted();
    try {
      return await connectOnce(path);
    } catch (error) {
      if (performance.now() >= giveUpAt) throw error;
    }
    await delay(RETRY_MS, undefined, signal === undefined ? {} : { signal });
  }
}

const connectOnce = (path: string): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
