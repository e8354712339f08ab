/** The storm's processes: of its links and of its clients. Each ends with the benchmark. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { endsWithUs } from '../../support/leftovers.js';
import type { LinkRates } from '../../support/link.js';
import type { ClientsAsked, ClientsSay } from './clients-main.js';
import type { StormClientOptions } from './storm-client.js';

const start = (file: string, words: readonly string[] = []): ChildProcess => {
  const child = fork(fileURLToPath(new URL(file, import.meta.url)), words, {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  endsWithUs(child);
  return child;
};

const end = async (child: ChildProcess): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
};

/** The next message; fails when the process ends first. */
const heard = async (child: ChildProcess): Promise<unknown> =>
  await new Promise((resolve, reject) => {
    const onExit = (code: number | null): void => reject(new Error(`a process of the storm ended (${code})`));
    child.once('exit', onExit);
    child.once('message', (message) => {
      child.off('exit', onExit);
      resolve(message);
    });
  });

export type LinksOptions = {
  readonly count: number;
  readonly toPort: number;
  readonly rates: LinkRates;
  /** So many times slower goes their clock. */
  readonly slower: number;
};

/** Links, each for one client, in one process. */
export class LinksProcess implements AsyncDisposable {
  readonly pid: number;
  readonly ports: readonly number[];
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, ports: readonly number[]) {
    this.#child = child;
    this.pid = child.pid ?? 0;
    this.ports = ports;
  }

  static async open({ count, toPort, rates, slower }: LinksOptions): Promise<LinksProcess> {
    const { downBitsPerSecond, upBitsPerSecond, roundTripMs } = rates;
    const numbers = [count, toPort, slower, downBitsPerSecond / 1_000, upBitsPerSecond / 1_000, roundTripMs];
    const child = start('./links-main.js', numbers.map(String));
    return new LinksProcess(child, (await heard(child)) as number[]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await end(this.#child);
  }
}

type Done = Extract<ClientsSay, { readonly kind: 'fetched' | 'described' }>;

/** Clients that share a process. */
export class ClientsProcess implements AsyncDisposable {
  readonly pid: number;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.pid = child.pid ?? 0;
  }

  static async open(clients: readonly StormClientOptions[]): Promise<ClientsProcess> {
    const opened = new ClientsProcess(start('./clients-main.js'));
    await opened.#ask({ kind: 'open', clients });
    return opened;
  }

  /** All of its clients begin at that moment. */
  async work(kind: 'describe' | 'fetch', atMs: number): Promise<Done> {
    return (await this.#ask({ kind, atMs })) as Done;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await end(this.#child);
  }

  async #ask(asked: ClientsAsked): Promise<ClientsSay> {
    const answer = heard(this.#child);
    this.#child.send(asked);
    const says = (await answer) as ClientsSay;
    if (says.kind === 'failed') throw new Error(`a client of the storm: ${says.message}`);
    return says;
  }
}
