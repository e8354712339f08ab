/** A client of blockd's control socket: for the supervisor, the agent and tests. */
import type net from 'node:net';
import { CollectiveError, isErrorCode } from '@collective/shared';
import { readJsonLines, writeJsonLine } from '../../machine/json-lines.js';
import { withTimeout } from '../../machine/qmp-client.js';
import { connectUnix } from '../../machine/unix-socket.js';
import type { ControlEvent, ControlMethod, ControlParams, ControlReply, ControlResults } from './control-protocol.js';

/** A status with thousands of waiting blocks is long. */
const REPLY_BYTES_MAX = 16 << 20;
/** A daemon that hangs is ended by its supervisor much earlier; this is for one that answers everything but this. */
const TIMEOUT_MS = 60_000;
/** They wait for a slow disk, or for blocks. */
const LONG_MS: Partial<Readonly<Record<ControlMethod, number>>> = {
  attach: 300_000,
  detach: 300_000,
  warm: 700_000,
  seal: 300_000,
  'changed-blocks': 300_000,
  rebase: 3_600_000,
  hoard: 3_600_000,
  prefetch: 3_600_000,
};

export class ControlClient {
  readonly #socket: net.Socket;
  readonly #pending = new Map<number, { resolve: (result: object) => void; reject: (error: Error) => void }>();
  readonly #onEvent: (event: ControlEvent) => void;
  /** Resolves when the connection has ended. */
  readonly closed: Promise<void>;
  #nextId = 1;
  #isClosed = false;

  private constructor(socket: net.Socket, onEvent: (event: ControlEvent) => void) {
    this.#socket = socket;
    this.#onEvent = onEvent;
    socket.on('error', () => undefined);
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.#isClosed = true;
        const error = new CollectiveError('shutting-down', 'blockd has closed the control connection');
        for (const pending of this.#pending.values()) pending.reject(error);
        this.#pending.clear();
        resolve();
      });
    });
    readJsonLines(socket, {
      lineBytesMax: REPLY_BYTES_MAX,
      onValue: (value) => this.#take(value as ControlReply | ControlEvent),
    });
  }

  /** Connects; waits up to `waitMs` for the socket to be there. Events come only after a request `events`. */
  static async connect(
    path: string,
    options: {
      readonly waitMs?: number;
      readonly signal?: AbortSignal;
      readonly onEvent?: (event: ControlEvent) => void;
    } = {},
  ): Promise<ControlClient> {
    const { onEvent, ...rest } = options;
    return new ControlClient(await connectUnix(path, rest), onEvent ?? (() => undefined));
  }

  /** Errors: those of the method; `shutting-down` when blockd ends before it answers; `local-io` when it does not in time (`data.timedOut`). */
  async request<M extends ControlMethod>(
    method: M,
    params: ControlParams<M>,
    options: { readonly timeoutMs?: number } = {},
  ): Promise<ControlResults[M]> {
    if (this.#isClosed) throw new CollectiveError('shutting-down', 'blockd has closed the control connection');
    const id = this.#nextId;
    this.#nextId += 1;
    const answer = new Promise<object>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      writeJsonLine(this.#socket, { id, method, params });
    });
    const timeoutMs = options.timeoutMs ?? LONG_MS[method] ?? TIMEOUT_MS;
    try {
      return (await withTimeout(answer, timeoutMs, `blockd did not answer ${method}`)) as ControlResults[M];
    } finally {
      this.#pending.delete(id);
    }
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(message: ControlReply | ControlEvent): void {
    if ('event' in message) {
      this.#onEvent(message);
      return;
    }
    const pending = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if ('result' in message) pending?.resolve(message.result);
    else {
      const { code, data, message: text } = message.error;
      pending?.reject(new CollectiveError(isErrorCode(code) ? code : 'internal', text, { data }));
    }
  }
}
