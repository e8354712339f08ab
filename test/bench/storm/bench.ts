/**
 * `npm run bench -- storm`: a hundred transceivers boot the same new version at once, each through a link of 20 Mbit/s of its own: what the server
 * computes for it, its memory, requests, and how long the first and the last of them take. Beside it, in interleaved rounds, the same from
 * nginx in front of the public chunks folder, as docs/operating-repository.md shows it. The clients are the product's (storm-client.ts); what the
 * machine cannot carry at its full rate goes by a slower clock (storm-line.ts), which the table says.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { ServerClient } from '../../faults/server-client.js';
import { runOrThrow } from '../../support/child.js';
import { Repository, repositoryCommand } from '../../support/collective.js';
import { Nginx } from '../../support/nginx.js';
import { ROOT } from '../../support/paths.js';
import { processUsage } from '../../support/process-usage.js';
import {
  atMost,
  describeMachine,
  informs,
  interval,
  median,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { APPLIANCE, buildImages, publish } from '../boot/appliance.js';
import { OurPath } from '../trace-player/our-path.js';
import { readPublishedVersion } from '../trace-player/published-disks.js';
import { TraceRuns } from '../trace-player/runs.js';
import { lineSeconds, slowdown, STORM_LINE } from './storm-line.js';
import { storm, type Storm } from './storm-rounds.js';

const ROUNDS = 3;
const CLIENTS = 100;
const QUICK_CLIENTS = 20;
const CPU_RATIO_MAX = 1.25;
const LAST_TO_FIRST_MAX = 1.2;
/** Below that the clients waited for processors, not only for their lines. */
const LINE_FULL_MIN = 0.9;

type Round = { readonly ours: Storm; readonly theirs: Storm };

const perGigabyte = ({ chunks, chunkBytes }: Storm): number => chunks.cpuSeconds / (chunkBytes / 1e9);
const wholePerGigabyte = ({ description, chunks, chunkBytes }: Storm): number =>
  (description.cpuSeconds + chunks.cpuSeconds) / (chunkBytes / 1e9);
const last = (seconds: readonly number[]): number => Math.max(...seconds);
const first = (seconds: readonly number[]): number => Math.min(...seconds);

const failuresOf = (runs: readonly Storm[]): number => runs.reduce((sum, { failures }) => sum + failures, 0);

const describeStorm = (run: Storm): string =>
  `${perGigabyte(run).toFixed(3)} CPU-s/GB (${run.chunks.cpuSeconds.toFixed(2)} s), description ${run.description.cpuSeconds.toFixed(2)} s; ` +
  `first ${first(run.totalSeconds).toFixed(1)} s, last ${last(run.totalSeconds).toFixed(1)} s, ${run.failures} repeated; ` +
  `harness ${(run.chunks.harnessCpuSeconds / last(run.chunks.seconds)).toFixed(2)} cores`;

export class StormBench {
  readonly #options: BenchOptions;
  readonly #clients: number;
  readonly #slower: number;

  constructor(options: BenchOptions) {
    this.#options = options;
    this.#clients = options.quick ? QUICK_CLIENTS : CLIENTS;
    this.#slower = slowdown({ clients: this.#clients, cores: os.availableParallelism() });
  }

  async run(repository: Repository, nginx: Nginx): Promise<BenchCase[]> {
    const { log, quick } = this.#options;
    const serverPid = repository.process.process.pid ?? 0;
    const account = `storm-${process.pid}`;
    const joinLink = await repository.invite(account, 'publisher', { appliances: [APPLIANCE] });
    const client = await ServerClient.join(joinLink, account);
    const { version, disks } = await readPublishedVersion(repository.folder, APPLIANCE);
    const common = {
      ...{ clients: this.#clients, slower: this.#slower, token: client.token },
      version: { appliance: APPLIANCE, version, disks: disks.map(({ description }) => description) },
    };
    const sides = {
      ours: async () => storm({ ...common, toPort: repository.port, serverPids: [serverPid] }),
      theirs: async () => storm({ ...common, toPort: nginx.port, serverPids: [serverPid, nginx.pid] }),
    };
    const rounds: Round[] = [];
    for (let round = 0; round < (quick ? 1 : ROUNDS); round += 1) {
      const order = round % 2 === 0 ? (['ours', 'theirs'] as const) : (['theirs', 'ours'] as const);
      const done: Partial<Record<keyof Round, Storm>> = {};
      for (const side of order) {
        done[side] = await sides[side]();
        log(`round ${round + 1}, ${side === 'ours' ? 'our server' : 'nginx'}: ${describeStorm(done[side])}`);
      }
      if (done.ours !== undefined && done.theirs !== undefined) rounds.push({ ours: done.ours, theirs: done.theirs });
    }
    await client.close();
    const logged = await nginx.logged();
    if (logged.some((target) => target.startsWith('/v1/chunks/')))
      throw new Error('nginx has passed chunks on to the server: it does not find them');
    const memory = { ours: processUsage(serverPid).peakBytes, theirs: processUsage(nginx.pid).peakBytes };
    return this.#cases(rounds, memory);
  }

  #cases(rounds: readonly Round[], memory: { readonly ours: number; readonly theirs: number }): BenchCase[] {
    const slower = this.#slower;
    const ours = rounds.map((round) => round.ours);
    const theirs = rounds.map((round) => round.theirs);
    const [one] = ours;
    if (one === undefined) throw new Error('no round was run');
    const of = (runs: readonly Storm[], value: (run: Storm) => number): number[] => runs.map(value);
    const lasts = of(ours, ({ totalSeconds }) => last(totalSeconds));
    const spread = of(ours, ({ totalSeconds }) => last(totalSeconds) / first(totalSeconds));
    const theirSpread = of(theirs, ({ totalSeconds }) => last(totalSeconds) / first(totalSeconds));
    const oursPerGb = of(ours, perGigabyte);
    const theirsPerGb = of(theirs, perGigabyte);
    const full = of([...ours, ...theirs], ({ chunks, chunkBytes }) => {
      return lineSeconds(chunkBytes / this.#clients, slower) / median(chunks.seconds);
    });
    const harness = of([...ours, ...theirs], ({ chunks }) => chunks.harnessCpuSeconds / last(chunks.seconds));
    const { downBitsPerSecond, roundTripMs } = STORM_LINE;
    const lineNote =
      slower === 1
        ? 'as they are'
        : `${this.#clients} lines of ${downBitsPerSecond / 1e6} Mbit/s and ${roundTripMs} ms on a clock ${slower} times slower, all alike and for both servers: ` +
          'clients and links cannot carry more on this machine';
    return [
      informs('line of each client', downBitsPerSecond / slower / 1e6, 'Mbit/s', lineNote),
      informs(
        'of it used by the median client',
        median(full),
        'x',
        `${interval(full)}; clients and links ${interval(harness)} cores` +
          (median(full) < LINE_FULL_MIN ? '; THE HARNESS WAS THE LIMIT: times say nothing of the server' : ''),
      ),
      informs('clients', this.#clients, '', `${rounds.length} rounds of both, in turn`),
      informs('requests for chunks, of all clients', one.requests, '', `${(one.chunkBytes / 1e6).toFixed(0)} MB`),
      informs('attempts that were repeated, at our server', failuresOf(ours), '', `at nginx ${failuresOf(theirs)}`),
      informs('last client, from heads to its last block', median(lasts), 's', interval(lasts, 1)),
      informs("the same by the lines' own clock", median(lasts) / slower, 's'),
      atMost('last client / first', median(spread), LAST_TO_FIRST_MAX, {
        note: `${interval(spread)}; nginx ${interval(theirSpread)}`,
      }),
      informs('chunks: our server', median(oursPerGb), 'CPU-s/GB', interval(oursPerGb, 3)),
      informs('chunks: nginx', median(theirsPerGb), 'CPU-s/GB', interval(theirsPerGb, 3)),
      atMost(
        'chunks: our server / nginx',
        median(rounds.map((round) => perGigabyte(round.ours) / perGigabyte(round.theirs))),
        CPU_RATIO_MAX,
        { note: interval(rounds.map((round) => perGigabyte(round.ours) / perGigabyte(round.theirs))) },
      ),
      informs('whole start: our server alone', median(of(ours, wholePerGigabyte)), 'CPU-s/GB'),
      informs('whole start: nginx in front, both', median(of(theirs, wholePerGigabyte)), 'CPU-s/GB'),
      informs(
        'heads, manifest, maps, trace of one start: our server',
        median(of(ours, ({ description }) => (description.cpuSeconds * 1000) / this.#clients)),
        'CPU-ms',
      ),
      informs('memory of our server at most', memory.ours / 1e6, 'MB'),
      informs(
        'memory of nginx at most, all its processes',
        memory.theirs / 1e6,
        'MB',
        'what they share is counted in each',
      ),
    ];
  }
}

export const run = async (options: BenchOptions): Promise<BenchResult> => {
  await runOrThrow('bash', [path.join(ROOT, 'scripts/unpack-nginx.sh')]);
  const images = await buildImages(options.log);
  const folder = await mkdtemp(path.join(os.tmpdir(), 'storm-repository-'));
  try {
    await repositoryCommand(['init', path.join(folder, 'r')]);
    await using repository = await Repository.serve(path.join(folder, 'r'), 0, ['--collect-every', '0s']);
    options.log('publishing');
    await publish(repository, images);
    const version = await readPublishedVersion(repository.folder, APPLIANCE);
    {
      options.log('booting once, for its trace');
      await using ours = await OurPath.start(version, repository.port);
      const { recording, seconds } = await new TraceRuns(repository, images, version).record(ours);
      options.log(`${recording.requests.length} requests in a boot of ${seconds.toFixed(1)} s`);
    }
    await using nginx = await Nginx.open({ folder: repository.folder, serverPort: repository.port });
    const cases = await new StormBench(options).run(repository, nginx);
    return { bench: 'storm', machine: describeMachine(), cases };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
