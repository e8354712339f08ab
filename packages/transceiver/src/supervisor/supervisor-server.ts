/** The supervisor's control socket: supervisor-protocol.ts, carried out. */
import { chmod, rm } from 'node:fs/promises';
import net from 'node:net';
import { CollectiveError, integerField, strictObject } from '@collective/shared';
import { Type, type TSchema, Compile } from '@collective/schema';
import { readJsonLines, writeJsonLine } from '../machine/json-lines.js';
import { isNoRoom } from '../storage/durable-file.js';
import type { AgentKeeper } from './agent-keeper.js';
import { CONSOLE_TAIL_BYTES_MAX } from './serial-console.js';
import type { Supervisor } from './supervisor.js';
import {
  REQUEST_BYTES_MAX,
  STOP_DEADLINE_MS,
  SUPERVISOR_METHODS,
  type SupervisorEvent,
  type SupervisorMethod,
  type SupervisorParams,
  type SupervisorResults,
} from './supervisor-protocol.js';

export type SupervisorServerOptions = {
  readonly path: string;
  readonly supervisor: Supervisor;
  readonly agents: AgentKeeper;
  /** Called after `shutdown` or `leave` was answered. */
  readonly onShutdown: () => void;
};

const CONNECTIONS_MAX = 128;
/** A client that does not read is closed when so much is queued for it. */
const UNSENT_BYTES_MAX = 80 << 20;

type Answer = { readonly result: object; readonly after?: () => void };
type Handlers = {
  readonly [M in SupervisorMethod]: (params: SupervisorParams<M>, connection: Connection) => Answer | Promise<Answer>;
};
type Connection = { readonly socket: net.Socket; readonly stopReading: () => void };

const frame = Compile(
  strictObject({
    id: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
    method: Type.String({ maxLength: 40 }),
    params: Type.Optional(Type.Unknown()),
  }),
);

/** A checked method: its parameters are looked at before its handler sees them. */
const method = <M extends SupervisorMethod>(name: M, handler: Handlers[M]) => {
  const check = Compile<TSchema>(SUPERVISOR_METHODS[name]);
  return async (params: unknown, connection: Connection): Promise<Answer> => {
    if (!check.Check(params)) {
      const first = check.Errors(params)[0];
      const where =
        first === undefined ? '' : ` (at ${JSON.stringify(first.instancePath.slice(0, 100))}: ${first.message})`;
      throw new CollectiveError('bad-request', `${name}: the parameters are not valid${where}`);
    }
    return await handler(params as SupervisorParams<M>, connection);
  };
};

export class SupervisorServer {
  readonly #server: net.Server;
  readonly #options: SupervisorServerOptions;
  readonly #sockets = new Set<net.Socket>();
  readonly #listeners = new Set<net.Socket>();
  readonly #methods: ReadonlyMap<string, ReturnType<typeof method>>;

  private constructor(options: SupervisorServerOptions) {
    this.#options = options;
    this.#server = net.createServer((socket) => this.#accept(socket));
    this.#methods = this.#makeMethods();
    options.supervisor.on('machine', (machine, state) => this.#broadcast({ event: 'machine', machine, state }));
  }

  /** Listens; a socket of an earlier supervisor is removed: the caller holds the lock. Errors: `local-io`. */
  static async open(options: SupervisorServerOptions): Promise<SupervisorServer> {
    const server = new SupervisorServer(options);
    await rm(options.path, { force: true });
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', (cause) =>
        reject(new CollectiveError('local-io', `Cannot listen on ${options.path}`, { cause })),
      );
      server.#server.listen(options.path, resolve);
    });
    await chmod(options.path, 0o600);
    return server;
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroySoon();
    await closed;
  }

  #makeMethods(): ReadonlyMap<string, ReturnType<typeof method>> {
    const { supervisor, agents, onShutdown } = this.#options;
    const reply = <M extends SupervisorMethod>(result: SupervisorResults[M], after?: () => void): Answer =>
      after === undefined ? { result } : { result, after };
    return new Map([
      ['status', method('status', () => reply<'status'>(supervisor.status()))],
      [
        'start',
        method('start', async ({ diskKey, blockKeys, ...spec }) =>
          reply<'start'>({ state: await supervisor.start(spec, { diskKey, blockKeys }) }),
        ),
      ],
      [
        'stop',
        method('stop', ({ machine, deadlineMs, onlyIfPreparing = false }) =>
          reply<'stop'>({ state: supervisor.stop(machine, deadlineMs ?? STOP_DEADLINE_MS, { onlyIfPreparing }) }),
        ),
      ],
      [
        'suspend',
        method('suspend', async ({ machine }) => reply<'suspend'>({ state: await supervisor.suspend(machine) })),
      ],
      [
        'resume',
        method('resume', async ({ machine, diskKey, blockKeys }) =>
          reply<'resume'>({ state: await supervisor.resume(machine, { diskKey, blockKeys }) }),
        ),
      ],
      [
        'keys',
        method('keys', async ({ machine, blockKeys }) => {
          await supervisor.setBlockKeys(machine, blockKeys);
          return reply<'keys'>({});
        }),
      ],
      [
        'discard',
        method('discard', async ({ machine }) => reply<'discard'>({ state: await supervisor.discard(machine) })),
      ],
      [
        'sync',
        method('sync', async ({ machine }) => {
          await supervisor.sync(machine);
          return reply<'sync'>({});
        }),
      ],
      [
        'show-disk',
        method('show-disk', async ({ machine, ...disk }) => {
          await supervisor.showDisk(machine, disk);
          return reply<'show-disk'>({});
        }),
      ],
      [
        'hide-disk',
        method('hide-disk', async ({ machine, name }) => {
          await supervisor.hideDisk(machine, name);
          return reply<'hide-disk'>({});
        }),
      ],
      ['kill', method('kill', ({ machine }) => reply<'kill'>({ state: supervisor.kill(machine) }))],
      ['console', method('console', (params, connection) => this.#console(params, connection))],
      [
        'type',
        method('type', ({ machine, text }) => {
          supervisor.unit(machine).console.write(Buffer.from(text));
          return reply<'type'>({});
        }),
      ],
      ['guest-run', method('guest-run', async (params) => reply<'guest-run'>(await supervisor.runInGuest(params)))],
      [
        'screendump',
        method('screendump', async ({ machine }) =>
          reply<'screendump'>({ png: (await supervisor.screendump(machine)).toString('base64') }),
        ),
      ],
      [
        'repository',
        method('repository', async (repository) => {
          await supervisor.setRepository(repository);
          return reply<'repository'>({});
        }),
      ],
      [
        'events',
        method('events', (_, { socket }) => {
          this.#listeners.add(socket);
          return reply<'events'>({});
        }),
      ],
      [
        'agent',
        method('agent', ({ stays }, { socket }) => {
          if (stays) agents.arrived(socket);
          else agents.takesLeave(socket);
          return reply<'agent'>({});
        }),
      ],
      ['leave', method('leave', () => reply<'leave'>({}, onShutdown))],
      [
        'shutdown',
        method('shutdown', async ({ stopMachines, deadlineMs }) => {
          await supervisor.close({ stopMachines: stopMachines ?? false, deadlineMs: deadlineMs ?? STOP_DEADLINE_MS });
          return reply<'shutdown'>({}, onShutdown);
        }),
      ],
    ]);
  }

  #console({ machine, tailBytes }: SupervisorParams<'console'>, { socket, stopReading }: Connection): Answer {
    const { console } = this.#options.supervisor.unit(machine);
    return {
      result: {},
      after: () => {
        stopReading();
        console.attach(socket, tailBytes ?? CONSOLE_TAIL_BYTES_MAX);
      },
    };
  }

  #accept(socket: net.Socket): void {
    if (this.#sockets.size >= CONNECTIONS_MAX) {
      socket.destroy();
      return;
    }
    this.#sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#listeners.delete(socket);
      this.#options.agents.disconnected(socket);
    });
    const stopReading = readJsonLines(socket, {
      lineBytesMax: REQUEST_BYTES_MAX,
      onValue: (value) => void this.#answer({ socket, stopReading: () => stopReading() }, value),
    });
  }

  async #answer(connection: Connection, value: unknown): Promise<void> {
    let id = 0;
    try {
      if (!frame.Check(value)) throw new CollectiveError('bad-request', 'A request has an id, a method and params');
      id = value.id;
      const handler = this.#methods.get(value.method);
      if (handler === undefined) throw new CollectiveError('bad-request', 'There is no such method');
      const { result, after } = await handler(value.params ?? {}, connection);
      this.#send(connection.socket, { id, result });
      after?.();
    } catch (error) {
      const known =
        error instanceof CollectiveError
          ? error
          : isNoRoom(error)
            ? new CollectiveError('disk-full', error.message, { cause: error, data: { local: true } })
            : new CollectiveError('internal', String(error), { cause: error });
      this.#send(connection.socket, { id, error: { code: known.code, message: known.message, data: known.data } });
    }
  }

  #broadcast(event: SupervisorEvent): void {
    for (const socket of this.#listeners) this.#send(socket, event);
  }

  #send(socket: net.Socket, value: object): void {
    if (socket.destroyed) return;
    if (socket.writableLength > UNSENT_BYTES_MAX) socket.destroy();
    else writeJsonLine(socket, value);
  }
}
