/**
 * `npm run bench -- demand`: how long a guest's read of one block that is not here takes while the line is wanted for other things, too: a boot
 * trace that is replayed, blocks brought in in the background, a backup that uploads, all of them together. Beside it the same on an idle line, in
 * the same rounds, whose order turns. A block daemon with an empty cache, a repository server, shared/tools/link.mjs between them; blocks that
 * compress to half.
 *
 * Bar: the 99th percentile at most 1.2 times that of an idle line, and the time of one chunk on the wire.
 *
 * Parts for --only: the links by name.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { Repository, repositoryCommand } from '../../support/collective.js';
import { Link } from '../../support/link.js';
import {
  atMost,
  describeMachine,
  informs,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { Seeded } from '../dirty/seeded.js';
import { LINES, type PlayedLink } from '../trace-player/links.js';
import { BlockDaemon } from './block-daemon.js';
import { DemandReads, SPREAD } from './demand-reads.js';
import { quantile } from './quantile.js';
import { writeRandomChunks, type RandomChunks } from './random-chunks.js';
import { Uploads } from './uploading.js';

const BESIDE = ['nothing', 'trace', 'background', 'backup', 'all'] as const;
type Beside = (typeof BESIDE)[number];

/** `settleMs`: what runs beside is under way by then. `readsASlice` times `rounds` are what a percentile is of. */
type Plan = {
  readonly rounds: number;
  readonly readsASlice: number;
  readonly meanPauseMs: number;
  readonly settleMs: number;
};
const PLANS: Readonly<Record<PlayedLink, Plan>> = {
  lan: { rounds: 2, readsASlice: 100, meanPauseMs: 20, settleMs: 2_000 },
  cable: { rounds: 2, readsASlice: 100, meanPauseMs: 30, settleMs: 2_500 },
  lte: { rounds: 3, readsASlice: 50, meanPauseMs: 100, settleMs: 5_000 },
  dsl: { rounds: 3, readsASlice: 30, meanPauseMs: 250, settleMs: 8_000 },
};
const LINKS = Object.keys(PLANS) as readonly PlayedLink[];
/** Of link.mjs's profiles, upwards. */
const UP_BITS_PER_SECOND: Readonly<Record<PlayedLink, number>> = { lan: 100e6, cable: 20e6, lte: 5e6, dsl: 384e3 };
/** Connections are open and something is known of the line. */
const FIRST_READS = 5;
const DEMAND_BLOCKS = 400;
/** What the fastest line carries in a slice. */
const AHEAD_BLOCKS = 4_500;
/** Of an answer beside its chunk. */
const HEAD_BYTES = 250;
const RATIO_MAX = 1.2;

type Slice = {
  readonly tookMs: readonly number[];
  /** While reads were measured, of the line's capacity. */
  readonly downShare: number;
  readonly sentBytes: number;
  readonly seconds: number;
  /** What the block daemon takes the line for. */
  readonly seen: { readonly roundTripMs: number; readonly backgroundBytesPerSecond: number };
};

const part = ({ digests, chunkBytes }: RandomChunks, from: number, to: number): RandomChunks => ({
  digests: digests.slice(from, to),
  chunkBytes,
});

class DemandBench {
  readonly #repository: Repository;
  readonly #uploads: Uploads;
  readonly #demanded: RandomChunks;
  readonly #traced: RandomChunks;
  readonly #background: RandomChunks;

  constructor(repository: Repository, uploads: Uploads, chunks: RandomChunks) {
    this.#repository = repository;
    this.#uploads = uploads;
    this.#demanded = part(chunks, 0, DEMAND_BLOCKS);
    this.#traced = part(chunks, DEMAND_BLOCKS, DEMAND_BLOCKS + AHEAD_BLOCKS);
    this.#background = part(chunks, DEMAND_BLOCKS + AHEAD_BLOCKS, DEMAND_BLOCKS + 2 * AHEAD_BLOCKS);
  }

  async link(name: PlayedLink, { quick, log }: BenchOptions): Promise<BenchCase[]> {
    const plan = quick ? { ...PLANS[name], rounds: 1 } : PLANS[name];
    const slices = new Map<Beside, Slice[]>(BESIDE.map((beside) => [beside, []]));
    for (let round = 0; round < plan.rounds; round += 1) {
      for (const beside of round % 2 === 0 ? BESIDE : [...BESIDE].reverse()) {
        const slice = await this.#slice(name, beside, plan, new Seeded(round + 1));
        slices.get(beside)?.push(slice);
        log(`${name}, round ${round + 1}, beside ${beside}: ${describe(name, [slice])}`);
      }
    }
    return casesOf(name, slices, this.#demanded.chunkBytes);
  }

  async #slice(name: PlayedLink, beside: Beside, plan: Plan, random: Seeded): Promise<Slice> {
    const isBeside = (kind: Beside): boolean => beside === kind || beside === 'all';
    await using link = await Link.open({ toPort: this.#repository.port, profile: name });
    await using daemon = await BlockDaemon.start(link.port);
    const socket = await daemon.attach('demanded', this.#demanded, { spread: SPREAD });
    using reads = await DemandReads.open(socket, DEMAND_BLOCKS, random);
    await reads.read(FIRST_READS, plan.meanPauseMs);
    if (isBeside('trace')) await daemon.attach('traced', this.#traced, { isTraced: true });
    // Ends with the daemon.
    if (isBeside('background')) daemon.prefetch(this.#background.digests).catch(() => undefined);
    const upload = isBeside('backup') ? this.#uploads.begin(link.port, async () => daemon.status()) : undefined;
    // The guest has been reading for a while: the first read after a pause meets what a pause allows.
    const settledAtMs = performance.now() + plan.settleMs;
    while (performance.now() < settledAtMs) await reads.read(1, plan.meanPauseMs);
    const sentBefore = upload?.sentBytes() ?? 0;
    const before = await daemon.status();
    const beganMs = performance.now();
    const tookMs = await reads.read(plan.readsASlice, plan.meanPauseMs);
    const seconds = (performance.now() - beganMs) / 1_000;
    const after = await daemon.status();
    if (isBeside('trace') && after.fetch.queued.trace === 0) throw new Error('the trace was too short');
    const sentBytes = (upload?.sentBytes() ?? 0) - sentBefore;
    await upload?.stop();
    const downBytes = after.fetch.link.bytes - before.fetch.link.bytes;
    const { link: seenLink, backgroundBytesPerSecond } = after.fetch;
    const seen = { roundTripMs: seenLink.roundTripMs, backgroundBytesPerSecond };
    return { tookMs, seconds, sentBytes, seen, downShare: (downBytes * 8) / seconds / LINES[name].bitsPerSecond };
  }
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

const describe = (name: PlayedLink, slices: readonly Slice[]): string => {
  const all = slices.flatMap(({ tookMs }) => tookMs);
  const down = mean(slices.map(({ downShare }) => downShare));
  const up = mean(slices.map(({ sentBytes, seconds }) => (sentBytes * 8) / seconds / UP_BITS_PER_SECOND[name]));
  const at = (share: number): string => quantile(all, share).toFixed(1);
  return (
    `p50 ${at(0.5)}, p90 ${at(0.9)}, p99 ${at(0.99)}, most ${at(1)} ms, n=${all.length}; ` +
    `line down ${(down * 100).toFixed(0)} %, uploads ${(up * 100).toFixed(0)} % of up; round trip ${slices[0]?.seen.roundTripMs.toFixed(1)} ms, background at most ${((slices[0]?.seen.backgroundBytesPerSecond ?? 0) / 1e3).toFixed(0)} kB/s`
  );
};

const casesOf = (name: PlayedLink, slices: ReadonlyMap<Beside, readonly Slice[]>, chunkBytes: number): BenchCase[] => {
  const of = (beside: Beside): readonly Slice[] => slices.get(beside) ?? [];
  const p99 = (beside: Beside): number =>
    quantile(
      of(beside).flatMap(({ tookMs }) => tookMs),
      0.99,
    );
  const chunkMs = ((chunkBytes + HEAD_BYTES) * 8_000) / LINES[name].bitsPerSecond;
  const bar = Number((RATIO_MAX * p99('nothing') + chunkMs).toFixed(1));
  return [
    informs(`${name}: idle, p99`, p99('nothing'), 'ms', describe(name, of('nothing'))),
    informs(`${name}: one chunk on the wire`, chunkMs, 'ms'),
    ...BESIDE.filter((beside) => beside !== 'nothing').map((beside) =>
      atMost(`${name}: beside ${beside}, p99`, p99(beside), bar, { unit: 'ms', note: describe(name, of(beside)) }),
    ),
  ];
};

export const run = async (options: BenchOptions): Promise<BenchResult> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'demand-'));
  try {
    const repositoryFolder = path.join(folder, 'repository');
    await repositoryCommand(['init', repositoryFolder]);
    await using repository = await Repository.serve(repositoryFolder, 0, ['--collect-every', '0s']);
    const uploads = await Uploads.prepare(repository, folder);
    const chunks = await writeRandomChunks(repositoryFolder, DEMAND_BLOCKS + 2 * AHEAD_BLOCKS);
    const bench = new DemandBench(repository, uploads, chunks);
    const cases: BenchCase[] = [];
    for (const name of LINKS.filter((link) => options.only === undefined || options.only === link))
      cases.push(...(await bench.link(name, options)));
    return { bench: 'demand', machine: describeMachine(), cases };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
