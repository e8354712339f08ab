/**
 * One storm: every client begins at the same moment, each through a link of its own. First all describe (heads, manifest, maps, boot trace), then
 * all fetch, so that what each half costs whom can be told apart; a client's time is the sum of its own two.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { processUsage } from '../../support/process-usage.js';
import { nowOfMachineMs } from '../../support/machine-clock.js';
import type { StormVersion } from './storm-client.js';
import { STORM_LINE } from './storm-line.js';
import { ClientsProcess, LinksProcess } from './storm-processes.js';

export type StormOptions = {
  readonly clients: number;
  readonly slower: number;
  /** Where all links lead to. */
  readonly toPort: number;
  /** Whose processor time counts. */
  readonly serverPids: readonly number[];
  readonly token: string;
  readonly version: StormVersion;
};

export type Half = {
  /** Of the servers. */
  readonly cpuSeconds: number;
  /** Of clients and links. */
  readonly harnessCpuSeconds: number;
  /** Of each client. */
  readonly seconds: readonly number[];
};

export type Storm = {
  readonly description: Half;
  readonly chunks: Half;
  /** Answered, for chunks, of all clients. */
  readonly requests: number;
  readonly chunkBytes: number;
  /** Attempts that had to be repeated. */
  readonly failures: number;
  readonly totalSeconds: readonly number[];
};

const CLIENT_PROCESSES = 4;
const LINK_PROCESSES = 2;
/** Until every process has heard of it. */
const NOTICE_MS = 300;
/** What ended just now has settled: sockets are closed, and nobody computes for it any more. */
const SETTLE_MS = 500;

const shares = (count: number, parts: number): number[] =>
  Array.from(
    { length: parts },
    (_none, part) => Math.floor(((part + 1) * count) / parts) - Math.floor((part * count) / parts),
  );

/** All processes of a storm. */
class StormProcesses implements AsyncDisposable {
  readonly links: LinksProcess[] = [];
  readonly clients: ClientsProcess[] = [];

  async open({ clients, slower, toPort, token, version }: StormOptions): Promise<void> {
    for (const count of shares(clients, LINK_PROCESSES))
      this.links.push(await LinksProcess.open({ count, toPort, slower, rates: STORM_LINE }));
    const ports = this.links.flatMap((links) => links.ports);
    for (const count of shares(clients, CLIENT_PROCESSES)) {
      const own = ports.splice(0, count).map((port) => ({ origin: `http://127.0.0.1:${port}`, token, version }));
      this.clients.push(await ClientsProcess.open(own));
    }
  }

  get pids(): number[] {
    return [...this.links, ...this.clients].map(({ pid }) => pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.clients, ...this.links].map(async (each) => each[Symbol.asyncDispose]()));
  }
}

export const storm = async (options: StormOptions): Promise<Storm> => {
  await using processes = new StormProcesses();
  await processes.open(options);
  const harness = processes.pids;
  const cpuOf = (pids: readonly number[]): number => pids.reduce((sum, pid) => sum + processUsage(pid).cpuSeconds, 0);

  const half = async (kind: 'describe' | 'fetch') => {
    await sleep(SETTLE_MS);
    const before = { servers: cpuOf(options.serverPids), harness: cpuOf(harness) };
    const atMs = nowOfMachineMs() + NOTICE_MS;
    const done = await Promise.all(processes.clients.map(async (each) => each.work(kind, atMs)));
    const half: Half = {
      cpuSeconds: cpuOf(options.serverPids) - before.servers,
      harnessCpuSeconds: cpuOf(harness) - before.harness,
      seconds: done.flatMap(({ seconds }) => seconds),
    };
    return { half, fetched: done.flatMap(({ fetched }) => fetched) };
  };
  const { half: description } = await half('describe');
  const { half: chunks, fetched } = await half('fetch');
  const sum = (of: (each: (typeof fetched)[number]) => number): number =>
    fetched.reduce((total, each) => total + of(each), 0);
  return {
    ...{ description, chunks },
    requests: sum(({ requests }) => requests),
    chunkBytes: sum(({ chunkBytes }) => chunkBytes),
    failures: sum(({ failures }) => failures),
    totalSeconds: chunks.seconds.map((seconds, at) => seconds + (description.seconds[at] ?? 0)),
  };
};
