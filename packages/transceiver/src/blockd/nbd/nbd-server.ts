/**
 * The NBD server: a listening socket, its exports and its sessions.
 *
 * It speaks the newstyle fixed handshake with structured replies (see `nbd-protocol`), over any stream socket that
 * `net.Server` can listen on. The listening socket may be handed over by a supervisor, so that clients wait in its backlog
 * while this process restarts.
 */
import net from 'node:net';
import { CollectiveError } from '@collective/shared';
import type { NbdExport } from './nbd-export.js';
import { NBD_LIMITS } from './nbd-limits.js';
import { Session } from './session.js';

export type NbdServerOptions = {
  /**
   * Where to listen: the path of a unix socket (must not exist; removed at close), a descriptor that already listens, or a
   * net.Server that was made with `nbdListener`.
   */
  readonly listen: { readonly path: string } | { readonly fd: number } | { readonly server: net.Server };
  /** Names must differ. The name '' stands for the first one when none is called so. */
  readonly exports: readonly NbdExport[];
  /** Told of every failed operation of a device. Default: nothing. */
  readonly failed?: (error: unknown) => void;
};

/** A net.Server with the settings that NbdServer needs; it may be told to listen anywhere. */
export const nbdListener = (): net.Server => net.createServer({ pauseOnConnect: true, allowHalfOpen: true });

export class NbdServer {
  readonly #listener: net.Server;
  readonly #exports: readonly NbdExport[];
  readonly #failed: (error: unknown) => void;
  readonly #sessions = new Set<Session>();
  readonly #onConnection = (socket: net.Socket): void => this.#accept(socket);
  #closed: Promise<void> | undefined;

  private constructor(listener: net.Server, options: NbdServerOptions) {
    this.#listener = listener;
    this.#exports = options.exports;
    this.#failed = options.failed ?? ((): void => {});
    listener.on('connection', this.#onConnection);
  }

  /** Resolves when clients can connect. Errors: `in-use` (the path or descriptor), `local-io`. */
  static async open(options: NbdServerOptions): Promise<NbdServer> {
    const { listen } = options;
    const listener = 'server' in listen ? listen.server : nbdListener();
    const server = new NbdServer(listener, options);
    if (!listener.listening) await startListening(listener, 'server' in listen ? {} : listen);
    return server;
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  /** Stops listening, ends every session after its operations; the devices stay open: they are the caller's. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      const stopped = new Promise<void>((resolve) => this.#listener.close(() => resolve()));
      for (const session of this.#sessions) session.finish();
      const ended = Promise.all([...this.#sessions].map((session) => session.ended));
      const timer = setTimeout(() => {
        for (const session of this.#sessions) session.abandon();
      }, NBD_LIMITS.closeMs);
      await ended;
      clearTimeout(timer);
      await stopped;
    })();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #accept(socket: net.Socket): void {
    if (this.#sessions.size >= NBD_LIMITS.connectionsMax || this.#closed !== undefined) {
      socket.destroy();
      return;
    }
    const session = new Session(socket, {
      exportNames: () => this.#exports.map((nbdExport) => nbdExport.name),
      findExport: (name) =>
        this.#exports.find((nbdExport) => nbdExport.name === name) ?? (name === '' ? this.#exports[0] : undefined),
      failed: this.#failed,
    });
    this.#sessions.add(session);
    void session.ended.then(() => this.#sessions.delete(session));
  }
}

const startListening = (
  listener: net.Server,
  address: { readonly path?: string; readonly fd?: number },
): Promise<void> =>
  new Promise((resolve, reject) => {
    listener.once('error', (error) => {
      const where = address.path ?? `descriptor ${address.fd ?? -1}`;
      const code = Reflect.get(error, 'code') === 'EADDRINUSE' ? 'in-use' : 'local-io';
      reject(new CollectiveError(code, `cannot listen on ${where}: ${error.message}`, { cause: error }));
    });
    listener.listen({ ...address }, () => resolve());
  });
