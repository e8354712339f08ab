/** A client of the supervisor's control socket, for the agent and tests; starts the supervisor when there is none. */
import { type ChildProcess, spawn } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { CollectiveError, hasCode, isErrorCode } from '@collective/shared';
import type { Home } from '../home.js';
import { readJsonLines, writeJsonLine } from '../machine/json-lines.js';
import { field, withTimeout } from '../machine/qmp-client.js';
import { connectUnix } from '../machine/unix-socket.js';
import { isAtRest, type MachineState } from './machine-state.js';
import {
  REPLY_BYTES_MAX,
  STOP_DEADLINE_MS,
  SUPERVISOR_PROTOCOL,
  type SupervisorEvent,
  type SupervisorMethod,
  type SupervisorParams,
  type SupervisorResults,
} from './supervisor-protocol.js';

export type SupervisorHome = Pick<Home, 'directory' | 'supervisorSocket' | 'logDirectory'>;

/** Adopting many machines on a busy host takes its time. */
const START_WAIT_MS = 30_000;
const START_ATTEMPTS = 20;
const START_RETRY_MS = 200;
/** For a supervisor that hangs: it answers from its memory, or asks QEMU or blockd, which have shorter ones. */
const TIMEOUT_MS = 60_000;
/** They wait for a disk: the memory of a large guest is copied, disks are hashed, a block daemon is started again. */
const LONG_MS: Partial<Readonly<Record<SupervisorMethod, number>>> = {
  suspend: 3_600_000,
  'guest-run': 3_900_000,
  discard: 300_000,
  resume: 300_000,
  repository: 300_000,
  // It may wait for its first block.
  'show-disk': 120_000,
};
/** What a shutdown takes beside the deadline of its machines. */
const SHUTDOWN_EXTRA_MS = 300_000;

type Pending = {
  /** Runs before anything that follows the reply is read. */
  readonly onReply: (() => void) | undefined;
  readonly resolve: (result: object) => void;
  readonly reject: (error: Error) => void;
};

export class SupervisorClient extends EventEmitter<{ event: [event: SupervisorEvent]; close: [] }> {
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #stopReading: () => void;
  #lastId = 0;
  #closed = false;

  private constructor(socket: Socket) {
    super();
    this.#socket = socket;
    socket.on('error', () => undefined);
    socket.once('close', () => {
      this.#closed = true;
      for (const { reject } of this.#pending.values())
        reject(new CollectiveError('shutting-down', 'The supervisor has ended'));
      this.#pending.clear();
      this.emit('close');
    });
    this.#stopReading = readJsonLines(socket, { lineBytesMax: REPLY_BYTES_MAX, onValue: (value) => this.#take(value) });
  }

  /** Connects to the supervisor that runs. Errors: `local-io` when there is none. */
  static async connect(
    home: SupervisorHome,
    options: { readonly waitMs?: number; readonly signal?: AbortSignal } = {},
  ): Promise<SupervisorClient> {
    const socket = await connectUnix(home.supervisorSocket, options).catch((cause: unknown) => {
      options.signal?.throwIfAborted();
      throw new CollectiveError('local-io', `No supervisor answers at ${home.supervisorSocket}`, { cause });
    });
    return new SupervisorClient(socket);
  }

  /** Connects, after starting the supervisor when there is none. `words`: more arguments for it (tests). Errors: `local-io`. */
  static async open(
    home: SupervisorHome,
    options: { readonly words?: readonly string[] } = {},
  ): Promise<SupervisorClient> {
    // More than once: one that was just killed may still hold the lock, and a client of another agent may start one too.
    for (let attempt = 1; ; attempt += 1) {
      const running = await SupervisorClient.#connectAlive(home, {}).catch((error: unknown) => {
        if (hasCode(error, 'other-software') || isTimeout(error)) throw error;
        return undefined;
      });
      if (running !== undefined) return running.client;
      const ended = new AbortController();
      const child = await spawnSupervisor(home, options.words ?? [], () => ended.abort());
      try {
        const { client, pid } = await SupervisorClient.#connectAlive(home, {
          waitMs: START_WAIT_MS,
          signal: ended.signal,
        });
        // Another agent's was faster. Ours would end at the lock, or live on if that one ended just before.
        if (pid !== child.pid) child.kill('SIGKILL');
        return client;
      } catch (error) {
        if (isTimeout(error)) throw error; // one that hangs holds the lock
        if (attempt >= START_ATTEMPTS) {
          throw new CollectiveError('local-io', `The supervisor did not start; see ${logFileOf(home)}`, {
            cause: error,
          });
        }
        await delay(START_RETRY_MS);
      }
    }
  }

  /** The socket of one that is dying still takes connections: only an answer counts. */
  static async #connectAlive(
    home: SupervisorHome,
    options: { readonly waitMs?: number; readonly signal?: AbortSignal },
  ): Promise<{ readonly client: SupervisorClient; readonly pid: number }> {
    const client = await SupervisorClient.connect(home, options);
    try {
      const { pid, protocol, software } = await client.request('status', {}, { timeoutMs: START_WAIT_MS });
      if (protocol !== SUPERVISOR_PROTOCOL) {
        throw new CollectiveError(
          'other-software',
          `The supervisor speaks protocol ${String(protocol)} (${software ?? 'older software'}), this is ${String(SUPERVISOR_PROTOCOL)}`,
        );
      }
      return { client, pid };
    } catch (error) {
      client.close();
      throw error;
    }
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Errors: those of the method (supervisor-protocol.ts); `shutting-down` when the supervisor ends first; `local-io` when it does not answer
   * in time (`data.timedOut`): by default a minute, longer for what takes long.
   */
  async request<M extends SupervisorMethod>(
    method: M,
    params: SupervisorParams<M>,
    options: { readonly timeoutMs?: number } = {},
  ): Promise<SupervisorResults[M]> {
    return await this.#ask(method, params, options);
  }

  async #ask<M extends SupervisorMethod>(
    method: M,
    params: SupervisorParams<M>,
    { onReply, timeoutMs = timeoutOf(method, params) }: { readonly onReply?: () => void; readonly timeoutMs?: number },
  ): Promise<SupervisorResults[M]> {
    if (this.#closed) throw new CollectiveError('shutting-down', 'The supervisor has ended');
    const id = ++this.#lastId;
    const answer = new Promise<object>((resolve, reject) => {
      this.#pending.set(id, { onReply, resolve, reject });
      writeJsonLine(this.#socket, { id, method, params });
    });
    try {
      return (await withTimeout(answer, timeoutMs, `The supervisor did not answer ${method}`)) as SupervisorResults[M];
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Resolves with the first state that `wanted` accepts, the present one included; rejects when the machine is over without. */
  async waitForState(
    machine: string,
    wanted: (state: MachineState) => boolean,
    signal?: AbortSignal,
  ): Promise<MachineState> {
    await this.request('events', {});
    return await new Promise<MachineState>((resolve, reject) => {
      const done = (act: () => void): void => {
        this.off('event', onEvent);
        this.off('close', onClose);
        signal?.removeEventListener('abort', onAbort);
        act();
      };
      const look = (state: MachineState): void => {
        if (wanted(state)) done(() => resolve(state));
        else if (isAtRest(state)) done(() => reject(overWithout(machine, state)));
      };
      const onEvent = (event: SupervisorEvent): void => {
        if (event.machine === machine) look(event.state);
      };
      const onClose = (): void => done(() => reject(new CollectiveError('shutting-down', 'The supervisor has ended')));
      const onAbort = (): void =>
        done(() => reject(signal?.reason instanceof Error ? signal.reason : new CollectiveError('shutting-down')));
      this.on('event', onEvent);
      this.once('close', onClose);
      signal?.addEventListener('abort', onAbort, { once: true });
      // One that was aborted before does not say so again.
      if (signal?.aborted === true) return onAbort();
      this.request('status', {}).then(
        ({ machines }) => {
          const state = machines.find((each) => each.machine === machine)?.state;
          if (state !== undefined) look(state);
          else done(() => reject(new CollectiveError('not-found', `There is no machine ${machine}`)));
        },
        (error: unknown) => done(() => reject(error instanceof Error ? error : new Error(String(error)))),
      );
    });
  }

  /** Makes this connection the machine's serial port, raw both ways, beginning with what is kept, and still paused; nothing else can be asked on it afterwards. */
  async console(machine: string, options: { readonly tailBytes?: number } = {}): Promise<Socket> {
    await this.#ask('console', { machine, ...options }, { onReply: () => this.#stopReading() });
    return this.#socket;
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(value: unknown): void {
    if (field(value, 'event') !== undefined) {
      this.emit('event', value as SupervisorEvent);
      return;
    }
    const id = field(value, 'id');
    const pending = typeof id === 'number' ? this.#pending.get(id) : undefined;
    if (typeof id !== 'number' || pending === undefined) return;
    this.#pending.delete(id);
    const error = field(value, 'error');
    const result = field(value, 'result');
    if (typeof result === 'object' && result !== null) {
      pending.onReply?.();
      pending.resolve(result);
    } else {
      const code = String(field(error, 'code'));
      const isLocal = field(field(error, 'data'), 'local') === true;
      pending.reject(
        new CollectiveError(isErrorCode(code) ? code : 'internal', String(field(error, 'message')), {
          ...(isLocal ? { data: { local: true } } : {}),
        }),
      );
    }
  }
}

const isTimeout = (error: unknown): boolean => error instanceof CollectiveError && error.data['timedOut'] === true;

const timeoutOf = (method: SupervisorMethod, params: object): number => {
  if (method !== 'shutdown') return LONG_MS[method] ?? TIMEOUT_MS;
  const deadlineMs = field(params, 'deadlineMs');
  return (typeof deadlineMs === 'number' ? deadlineMs : STOP_DEADLINE_MS) + SHUTDOWN_EXTRA_MS;
};

const logFileOf = (home: SupervisorHome): string => join(home.logDirectory, 'supervisor.log');

async function spawnSupervisor(
  home: SupervisorHome,
  words: readonly string[],
  onEnd: () => void,
): Promise<ChildProcess> {
  await mkdir(home.logDirectory, { recursive: true, mode: 0o700 });
  const log = await open(logFileOf(home), 'a', 0o600);
  try {
    const main = fileURLToPath(new URL('../../dist/supervisor/main.js', import.meta.url));
    const child = spawn(process.execPath, [main, '--home', home.directory, ...words], {
      cwd: '/',
      detached: true, // its own session: it outlives the agent and the terminal
      stdio: ['ignore', log.fd, log.fd],
    });
    child.once('error', onEnd);
    child.once('exit', () => void delay(0).then(onEnd));
    child.unref();
    return child;
  } finally {
    await log.close();
  }
}

/** Of a machine that is at rest and was to be something else. */
const overWithout = (machine: string, state: MachineState): CollectiveError => {
  const why = 'why' in state && state.why !== undefined ? `: ${state.why}` : '';
  const isFull = 'isFull' in state && state.isFull === true;
  return new CollectiveError(isFull ? 'disk-full' : 'local-io', `${machine} is ${state.name}${why}`, {
    ...(isFull ? { data: { local: true } } : {}),
  });
};
