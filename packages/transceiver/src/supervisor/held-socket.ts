/**
 * A listening unix socket that this process holds and never accepts from: the block daemon does, and when it dies the
 * connections wait in the backlog until the next one has it.
 *
 * A `net.Server` that listens would accept here, so the socket is bound as a bare handle and wrapped into a server that was
 * never started; `child.send` takes its handle and the child gets a listening server. Node has no documented way to hold a
 * socket without accepting; `_createServerHandle` is what its cluster module uses for the same purpose, and this is the only
 * file that knows it. The socket refuses connections until a child listens for the first time.
 */
import { rm } from 'node:fs/promises';
import net from 'node:net';
import { CollectiveError } from '@collective/shared';

type PipeHandle = { close(): void };

export class HeldSocket {
  readonly path: string;
  readonly #handle: PipeHandle;
  /** Only for `child.send`. */
  readonly server: net.Server;
  #closed = false;

  private constructor(path: string, handle: PipeHandle) {
    this.path = path;
    this.#handle = handle;
    this.server = new net.Server();
    Reflect.set(this.server, '_handle', handle);
  }

  /** Binds the path; a socket of an earlier process in its place is removed: the caller knows that nobody serves it. Errors: `local-io`. */
  static async open(path: string): Promise<HeldSocket> {
    await rm(path, { force: true });
    const create: unknown = Reflect.get(net, '_createServerHandle');
    if (typeof create !== 'function') throw new CollectiveError('internal', 'This Node cannot hold a listening socket');
    const handle: unknown = create(path, -1, -1);
    if (!isPipeHandle(handle))
      throw new CollectiveError('local-io', `The socket ${path} cannot be bound (${String(handle)})`);
    return new HeldSocket(path, handle);
  }

  /** Closes and removes the socket. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#handle.close();
    await rm(this.path, { force: true });
  }
}

const isPipeHandle = (value: unknown): value is PipeHandle =>
  typeof value === 'object' && value !== null && 'close' in value && typeof value.close === 'function';
