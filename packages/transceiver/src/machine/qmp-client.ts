/**
 * Our own small QMP client (QEMU Machine Protocol, docs/interop/qmp-spec in QEMU): greeting, capabilities, commands with ids,
 * events with times. QEMU is taken to be hostile: lines are bounded, every field is looked at before it is used.
 *
 * A command has a timeout because QEMU's main loop can hang: while one read of a disk is pending, `stop`, `quit` and what
 * comes after them wait for it (measured on 7.2). A command that ran out of time may still be carried out later.
 */
import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { CollectiveError } from '@collective/shared';
import { readJsonLines, writeJsonLine } from './json-lines.js';
import { connectUnix } from './unix-socket.js';

export type QmpEvent = {
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** QEMU's clock, milliseconds since 1970. */
  readonly timeMs: number;
};

/** QEMU's run states that matter here; there are more, which a reader treats as not running. */
export type RunState = { readonly status: string; readonly running: boolean };

type QmpClientEvents = {
  event: [event: QmpEvent];
  /** The connection is gone (QEMU ended, or `close`); emitted once. */
  close: [];
};

type Pending = { readonly resolve: (value: unknown) => void; readonly reject: (error: Error) => void };

export type ExecuteOptions = {
  /** Default 5 s. */
  readonly timeoutMs?: number;
};

const LINE_BYTES_MAX = 4 << 20;
const COMMAND_TIMEOUT_MS = 5_000;
/** QEMU greets when all its disks are open, which takes a while when the block path is just being restarted. */
const GREETING_TIMEOUT_MS = 30_000;

export class QmpClient extends EventEmitter<QmpClientEvents> implements Disposable {
  readonly #socket: Socket;
  readonly #pending = new Map<string, Pending>();
  readonly #greeting: Promise<void>;
  #greeted: () => void = () => undefined;
  #notGreeted: (error: Error) => void = () => undefined;
  #lastId = 0;
  #closed = false;
  #error: Error | undefined;

  private constructor(socket: Socket) {
    super();
    this.#socket = socket;
    this.#greeting = new Promise((resolve, reject) => {
      this.#greeted = resolve;
      this.#notGreeted = reject;
    });
    this.#greeting.catch(() => undefined);
    readJsonLines(socket, { lineBytesMax: LINE_BYTES_MAX, onValue: (value) => this.#take(value) });
    socket.on('error', (error) => (this.#error = error)); // ECONNRESET when QEMU ends: `close` follows
    socket.on('close', () => this.#onClose());
  }

  /** Connects, waits for the greeting and negotiates. `waitMs`: as for `connectUnix`. Errors: `local-io`. */
  static async open(
    path: string,
    options: { readonly waitMs?: number; readonly signal?: AbortSignal } = {},
  ): Promise<QmpClient> {
    const socket = await connectUnix(path, options).catch((error: unknown) => {
      options.signal?.throwIfAborted();
      throw new CollectiveError('local-io', `QEMU's control socket ${path} cannot be reached`, { cause: error });
    });
    const client = new QmpClient(socket);
    try {
      await withTimeout(client.#greeting, GREETING_TIMEOUT_MS, 'QEMU sent no greeting');
      await client.execute('qmp_capabilities', {}, { timeoutMs: GREETING_TIMEOUT_MS });
    } catch (error) {
      client.close();
      throw error;
    }
    return client;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * What QEMU returns. Errors: `local-io` when it refuses (`data.qmpClass`), when the time is over (`data.timedOut`), or
   * when the connection ends first (`data.closed`).
   */
  async execute(
    command: string,
    words: Readonly<Record<string, unknown>> = {},
    options: ExecuteOptions = {},
  ): Promise<unknown> {
    if (this.#closed) throw this.#closedError(command);
    const id = `c${++this.#lastId}`;
    const reply = new Promise<unknown>((resolve, reject) => this.#pending.set(id, { resolve, reject }));
    writeJsonLine(this.#socket, { execute: command, arguments: words, id });
    try {
      return await withTimeout(reply, options.timeoutMs ?? COMMAND_TIMEOUT_MS, `QEMU did not answer ${command}`);
    } catch (error) {
      if (error instanceof CollectiveError && error.data['closed'] === true) throw this.#closedError(command);
      throw error;
    } finally {
      this.#pending.delete(id);
    }
  }

  async queryStatus(options: ExecuteOptions = {}): Promise<RunState> {
    const value = await this.execute('query-status', {}, options);
    const status = field(value, 'status');
    const running = field(value, 'running');
    if (typeof status !== 'string' || typeof running !== 'boolean')
      throw new CollectiveError('malformed', 'query-status');
    return { status, running };
  }

  async cont(options: ExecuteOptions = {}): Promise<void> {
    await this.execute('cont', {}, options);
  }

  async powerDown(options: ExecuteOptions = {}): Promise<void> {
    await this.execute('system_powerdown', {}, options);
  }

  /** Ends QEMU. A connection that ends instead of an answer is success. */
  async quit(options: ExecuteOptions = {}): Promise<void> {
    try {
      await this.execute('quit', {}, options);
    } catch (error) {
      if (!(error instanceof CollectiveError && error.data['closed'] === true)) throw error;
    }
  }

  /** Idempotent; commands in flight are rejected. */
  close(): void {
    this.#socket.destroy();
    this.#onClose();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #take(value: unknown): void {
    if (field(value, 'QMP') !== undefined) {
      this.#greeted();
      return;
    }
    const event = field(value, 'event');
    if (typeof event === 'string') {
      this.emit('event', {
        name: event,
        data: record(field(value, 'data')),
        timeMs: timeOf(field(value, 'timestamp')),
      });
      return;
    }
    const id = field(value, 'id');
    const pending = typeof id === 'string' ? this.#pending.get(id) : undefined;
    if (pending === undefined) return; // an answer that nobody waits for any more
    const failure = field(value, 'error');
    if (failure === undefined) pending.resolve(field(value, 'return'));
    else {
      const qmpClass = String(field(failure, 'class'));
      pending.reject(
        new CollectiveError('local-io', `QEMU refused: ${String(field(failure, 'desc'))}`, { data: { qmpClass } }),
      );
    }
  }

  #onClose(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#notGreeted(this.#closedError('the greeting'));
    for (const { reject } of this.#pending.values()) reject(this.#closedError('a command'));
    this.#pending.clear();
    this.emit('close');
  }

  #closedError(what: string): CollectiveError {
    return new CollectiveError('local-io', `QEMU ended before it answered ${what}`, {
      cause: this.#error,
      data: { closed: true },
    });
  }
}

/** Rejects with `local-io` (`data.timedOut`) when the promise takes longer. */
export async function withTimeout<T>(promise: Promise<T>, timeoutMs: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new CollectiveError('local-io', `${what} within ${timeoutMs} ms`, { data: { timedOut: true } })),
      timeoutMs,
    );
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

export const field = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, name) ? Reflect.get(value, name) : undefined;

const record = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {};

const timeOf = (value: unknown): number => {
  const seconds = field(value, 'seconds');
  const microseconds = field(value, 'microseconds');
  return typeof seconds === 'number' && typeof microseconds === 'number' ? seconds * 1000 + microseconds / 1000 : 0;
};
