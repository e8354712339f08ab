/**
 * `npm run bench -- swing`: the class *background* on a line whose capacity swings between 2 and 250 Mbit/s and which another download (curl, plain
 * HTTP) shares in part of the time: how much of what is idle it uses, by how much the other is slower than when it has the line for itself, how soon
 * it is out of the way. With --json FILE a picture beside it.
 *
 * The client is the product's block path without its cache (client-main.ts), the line test/support/swinging-link-main.ts, the server ours. First it is
 * measured what client, line and server carry together on this machine; the upper end is lowered to four fifths of that where it is less than 250.
 */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ChildProcess } from 'node:child_process';
import type { FetchClass } from '@collective/transceiver';
import { Child } from '../../support/child.js';
import { Repository, repositoryCommand } from '../../support/collective.js';
import { endForked, startForked } from '../../support/forked.js';
import { nowOfMachineMs } from '../../support/machine-clock.js';
import { SwingingLink, type LineSample } from '../../support/swinging-link.js';
import {
  atLeast,
  atMost,
  describeMachine,
  informs,
  median,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { writeRandomChunks, type RandomChunks } from '../demand/random-chunks.js';
import type { ClientAsked, ClientSays } from './client-main.js';
import { OTHER, OURS, rateBetween, rates, schedule, secondsUntil, type Phase, type PlayedPhase } from './phases.js';
import { swingSvg } from './plot.js';

const ROUND_TRIP_MS = 20;
const LOWEST = 2e6;
const HIGHEST = 250e6;
const PHASE_SECONDS = 20;
const QUICK_PHASE_SECONDS = 12;
/** The other download alone: it needs no time to find out. */
const ALONE_SECONDS = 8;
const CEILING_SECONDS = 6;
/** Of what the machine carries at most, so that the processor is not the bottleneck. */
const CEILING_SHARE = 0.8;
const CHUNKS = 1_024;
const BLOCKS_A_SLICE = 16;
/** The idle line is used when so much of it is, in the second half of a phase. */
const USED_MIN = 0.8;
/** The other download gets at least so much of what it gets alone. */
const OTHER_MIN = 0.9;
/** Out of the way: the other has so much of what it had alone. */
const WAY_SHARE = 0.9;

type Played = {
  readonly phases: readonly PlayedPhase[];
  readonly samples: readonly LineSample[];
  readonly allowed: readonly ClientSays[];
};

const mbit = (bitsPerSecond: number): string => (bitsPerSecond / 1e6).toPrecision(3);

/** Answers every request with bytes that do not end. */
const serveEndlessly = async (): Promise<Server> => {
  const bytes = Buffer.alloc(65_536, 'x');
  const server = createServer((_, response) => {
    const send = (): void => {
      while (!response.destroyed && response.write(bytes)) continue;
    };
    response.on('drain', send).on('error', () => undefined);
    send();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server;
};

class SwingBench {
  readonly #chunks: RandomChunks;
  readonly #toPorts: readonly number[];
  readonly #log: BenchOptions['log'];

  constructor(of: {
    readonly chunks: RandomChunks;
    readonly toPorts: readonly number[];
    readonly log: BenchOptions['log'];
  }) {
    this.#chunks = of.chunks;
    this.#toPorts = of.toPorts;
    this.#log = of.log;
  }

  /** What client, line and server carry when nothing holds them back, bits a second. */
  async ceiling(): Promise<number> {
    await using link = await this.#open(4e9);
    const client = this.#client(link, 'trace', CHUNKS);
    await sleep(CEILING_SECONDS * 1_000);
    await endForked(client);
    const endMs = link.samples.at(-1)?.atMs ?? 0;
    return rateBetween(link.samples, OURS, endMs - (CEILING_SECONDS * 1_000) / 2, endMs);
  }

  /** `withBackground`: without it the other download has the line for itself. */
  async play(
    phases: readonly Phase[],
    { seconds, withBackground }: { readonly seconds: number; readonly withBackground: boolean },
  ): Promise<Played> {
    await using link = await this.#open(phases[0]?.bitsPerSecond ?? LOWEST);
    const allowed: ClientSays[] = [];
    const client = withBackground ? this.#client(link, 'background', BLOCKS_A_SLICE) : undefined;
    client?.on('message', (message) => allowed.push(message as ClientSays));
    const played: PlayedPhase[] = [];
    for (const phase of phases) {
      link.setCapacity(phase.bitsPerSecond);
      const beganMs = nowOfMachineMs();
      const other = phase.isShared ? this.#download(link) : undefined;
      await sleep(seconds * 1_000);
      const endedMs = nowOfMachineMs();
      await other?.stop('SIGTERM');
      played.push({ ...phase, beganMs, endedMs });
      const got = [OURS, OTHER].map((port) => mbit(rateBetween(link.samples, port, beganMs, endedMs)));
      this.#log(`${mbit(phase.bitsPerSecond)} Mbit/s: background ${got[0] ?? ''}, other ${got[1] ?? ''}`);
    }
    if (client !== undefined) await endForked(client);
    return { phases: played, samples: [...link.samples], allowed };
  }

  async #open(bitsPerSecond: number): Promise<SwingingLink> {
    return await SwingingLink.open({ toPorts: this.#toPorts, roundTripMs: ROUND_TRIP_MS, bitsPerSecond });
  }

  #client(link: SwingingLink, fetchClass: FetchClass, blocksASlice: number): ChildProcess {
    const child = startForked(new URL('./client-main.js', import.meta.url));
    const origin = `http://127.0.0.1:${link.ports[OURS] ?? 0}`;
    child.send({ origin, fetchClass, blocksASlice, digests: this.#chunks.digests } satisfies ClientAsked);
    return child;
  }

  #download(link: SwingingLink): Child {
    const url = `http://127.0.0.1:${link.ports[OTHER] ?? 0}/`;
    return new Child('other download', 'curl', ['--silent', '--output', '/dev/null', url]);
  }
}

const casesOf = (played: Played, alone: ReadonlyMap<number, number>): BenchCase[] => {
  const { samples } = played;
  return played.phases.flatMap((phase, at): BenchCase[] => {
    const { bitsPerSecond, beganMs, endedMs, isShared } = phase;
    const name = `${at + 1}. ${mbit(bitsPerSecond)} Mbit/s${isShared ? ' shared' : ''}`;
    const halfMs = (beganMs + endedMs) / 2;
    const rate = (port: number, fromMs: number): number => rateBetween(samples, port, fromMs, endedMs);
    if (!isShared) {
      const share = rate(OURS, halfMs) / bitsPerSecond;
      const whole = rate(OURS, beganMs) / bitsPerSecond;
      const until = secondsUntil(samples, phase, OURS, (value) => value >= USED_MIN * bitsPerSecond);
      const note = `${(whole * 100).toFixed(0)} % over the whole phase; ${(USED_MIN * 100).toFixed(0)} % after ${until.toFixed(1)} s`;
      return [atLeast(`${name}: of the idle line used, second half`, share, USED_MIN, { note })];
    }
    const aloneRate = alone.get(bitsPerSecond) ?? Number.NaN;
    const outAfter = secondsUntil(samples, phase, OTHER, (value) => value >= WAY_SHARE * aloneRate);
    const note = `alone ${mbit(aloneRate)} Mbit/s, whole phase ${(rate(OTHER, beganMs) / aloneRate).toFixed(2)}; background still ${mbit(rate(OURS, halfMs))} Mbit/s`;
    return [
      atLeast(`${name}: other / alone, second half`, rate(OTHER, halfMs) / aloneRate, OTHER_MIN, { note }),
      atMost(`${name}: until it is out of the way`, outAfter, 3, { unit: 's' }),
    ];
  });
};

const plotted = ({ samples, phases, allowed }: Played): string => {
  const beganMs = phases[0]?.beganMs ?? 0;
  const seconds = ((phases.at(-1)?.endedMs ?? 0) - beganMs) / 1_000;
  const at = (atMs: number): number => (atMs - beganMs) / 1_000;
  const isInside = ({ atMs }: { readonly atMs: number }): boolean => at(atMs) >= 0 && at(atMs) <= seconds;
  const points = (of: readonly { readonly atMs: number; readonly bitsPerSecond: number }[]) =>
    of.filter(isInside).map(({ atMs, bitsPerSecond }) => ({ atSeconds: at(atMs), bitsPerSecond }));
  const may = allowed.map(({ atMs, allowedBytesPerSecond }) => ({ atMs, bitsPerSecond: allowedBytesPerSecond * 8 }));
  return swingSvg(
    [
      { name: 'background', points: points(rates(samples, OURS, 1_000)) },
      { name: 'another download', points: points(rates(samples, OTHER, 1_000)) },
      { name: 'capacity', points: points(samples) },
      { name: "background's own rate", points: points(may) },
    ],
    seconds,
  );
};

export const run = async ({ quick, log, jsonFile }: BenchOptions): Promise<BenchResult> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'swing-'));
  const other = await serveEndlessly();
  try {
    const repositoryFolder = path.join(folder, 'repository');
    await repositoryCommand(['init', repositoryFolder]);
    await using repository = await Repository.serve(repositoryFolder, 0, ['--collect-every', '0s']);
    const chunks = await writeRandomChunks(repositoryFolder, CHUNKS);
    const toPorts = [repository.port, (other.address() as AddressInfo).port];
    const bench = new SwingBench({ chunks, toPorts, log });
    const ceiling = await bench.ceiling();
    const highest = Math.min(HIGHEST, Math.floor((CEILING_SHARE * ceiling) / 10e6) * 10e6);
    log(`client, line and server carry ${mbit(ceiling)} Mbit/s; the upper end is ${mbit(highest)}`);
    const phases = schedule(LOWEST, highest);
    const shared = phases.filter(({ isShared }) => isShared);
    const byItself = await bench.play(shared, { seconds: ALONE_SECONDS, withBackground: false });
    const alone = new Map(
      byItself.phases.map((phase) => [
        phase.bitsPerSecond,
        rateBetween(byItself.samples, OTHER, phase.beganMs + 1_000, phase.endedMs),
      ]),
    );
    const seconds = quick ? QUICK_PHASE_SECONDS : PHASE_SECONDS;
    const played = await bench.play(phases, { seconds, withBackground: true });
    if (jsonFile !== undefined) await writeFile(`${jsonFile.replace(/\.json$/, '')}.svg`, plotted(played));
    const cases = casesOf(played, alone);
    const used = played.phases.flatMap((phase) =>
      phase.isShared ? [] : [rateBetween(played.samples, OURS, phase.beganMs, phase.endedMs) / phase.bitsPerSecond],
    );
    return {
      bench: 'swing',
      machine: describeMachine(),
      cases: [
        informs('client, line and server carry at most', ceiling / 1e6, 'Mbit/s'),
        informs(
          'upper end of the swing',
          highest / 1e6,
          'Mbit/s',
          highest < HIGHEST ? 'LOWERED: see above' : undefined,
        ),
        informs('of the idle line used, whole phases, median', median(used), 'x'),
        ...cases,
      ],
    };
  } finally {
    other.closeAllConnections();
    other.close();
    await rm(folder, { recursive: true, force: true });
  }
};
