/** The storm's processes: of its links and of its clients. Each ends with the benchmark. */
import type { ChildProcess } from 'node:child_process';
import { endForked, heardFrom, startForked } from '../../support/forked.js';
import type { LinkRates } from '../../support/link.js';
import type { ClientsAsked, ClientsSay } from './clients-main.js';
import type { StormClientOptions } from './storm-client.js';

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
    const child = startForked(new URL('./links-main.js', import.meta.url), numbers);
    return new LinksProcess(child, (await heardFrom(child)) as number[]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await endForked(this.#child);
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
    const opened = new ClientsProcess(startForked(new URL('./clients-main.js', import.meta.url)));
    await opened.#ask({ kind: 'open', clients });
    return opened;
  }

  /** All of its clients begin at that moment. */
  async work(kind: 'describe' | 'fetch', atMs: number): Promise<Done> {
    return (await this.#ask({ kind, atMs })) as Done;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await endForked(this.#child);
  }

  async #ask(asked: ClientsAsked): Promise<ClientsSay> {
    const answer = heardFrom(this.#child);
    this.#child.send(asked);
    const says = (await answer) as ClientsSay;
    if (says.kind === 'failed') throw new Error(`a client of the storm: ${says.message}`);
    return says;
  }
}
