/** The control socket: takes requests of control-protocol.ts, one at a time or many, and sends events to who asked for them. */
import { chmod, rm } from 'node:fs/promises';
import net from 'node:net';
import { CollectiveError } from '@collective/shared';
import { readJsonLines, writeJsonLine } from '../../machine/json-lines.js';
import {
  CONTROL_LINE_BYTES_MAX,
  parseControlRequest,
  type ControlEvent,
  type ControlReply,
  type ControlRequest,
} from './control-protocol.js';

/** A client that does not read its replies is closed when so much is queued for it. */
const UNSENT_BYTES_MAX = 4 << 20;
const CONNECTIONS_MAX = 64;

export type ControlHandler = (
  request: ControlRequest,
  connection: { readonly wantEvents: () => void },
) => Promise<object>;

export class ControlServer {
  readonly #server: net.Server;
  readonly #handle: ControlHandler;
  readonly #sockets = new Set<net.Socket>();
  readonly #listeners = new Set<net.Socket>();

  private constructor(handle: ControlHandler) {
    this.#handle = handle;
    this.#server = net.createServer((socket) => this.#accept(socket));
  }

  /** Listens on `path`, which is removed first: the caller holds the lock that says nobody else uses it. */
  static async open(path: string, handle: ControlHandler): Promise<ControlServer> {
    const server = new ControlServer(handle);
    await rm(path, { force: true });
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', (error) =>
        reject(new CollectiveError('local-io', `cannot listen on ${path}: ${error.message}`, { cause: error })),
      );
      server.#server.listen(path, resolve);
    });
    await chmod(path, 0o600);
    return server;
  }

  broadcast(event: ControlEvent): void {
    for (const socket of this.#listeners) this.#send(socket, event);
  }

  /** Stops listening and closes all connections after what was written to them. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroySoon();
    await closed;
  }

  #accept(socket: net.Socket): void {
    if (this.#sockets.size >= CONNECTIONS_MAX) {
      socket.destroy();
      return;
    }
    this.#sockets.add(socket);
    socket.on('error', () => undefined); // its end is told by 'close'
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#listeners.delete(socket);
    });
    readJsonLines(socket, {
      lineBytesMax: CONTROL_LINE_BYTES_MAX,
      onValue: (value) => void this.#answer(socket, value),
    });
  }

  async #answer(socket: net.Socket, value: unknown): Promise<void> {
    let id = 0;
    let reply: ControlReply;
    try {
      const request = parseControlRequest(value);
      id = request.id;
      reply = { id, result: await this.#handle(request, { wantEvents: () => this.#listeners.add(socket) }) };
    } catch (error) {
      const known =
        error instanceof CollectiveError
          ? error
          : new CollectiveError('internal', error instanceof Error ? error.message : String(error));
      if (!(error instanceof CollectiveError)) console.error('blockd: a request failed:', error);
      const badId = known.data['id'];
      reply = {
        id: typeof badId === 'number' ? badId : id,
        error: { code: known.code, message: known.message, data: known.data },
      };
    }
    this.#send(socket, reply);
  }

  #send(socket: net.Socket, value: ControlReply | ControlEvent): void {
    if (socket.destroyed) return;
    if (socket.writableLength > UNSENT_BYTES_MAX) socket.destroy();
    else writeJsonLine(socket, value);
  }
}
