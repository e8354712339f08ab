/**
 * `npm run bench -- nbd`: the same image in the page cache, fio's nbd engine, one connection: `collective export` of a fully
 * cached disk against qemu-nbd on the raw file (reads) and on a qcow2 overlay with the same backing (writes), in interleaved
 * pairs. And the export beside a scrub and a cache fill at the lan's full rate, against the same while server and line
 * are at work for somebody else, and against the same alone.
 */
import { execFile } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import {
  atLeast,
  atMost,
  describeMachine,
  informs,
  interleavedPairs,
  interval,
  median,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { runFio, type FioJob, type FioResult } from './fio.js';
import { ExportSide, QemuSide, type NbdSide, type Serving } from './nbd-side.js';

const execute = promisify(execFile);

export type NbdBenchOptions = Partial<BenchOptions> & {
  readonly imageBytes?: number;
  /** Pairs per case; fewer than 5 mean little. */
  readonly pairCount?: number;
  /** Length of one run. */
  readonly seconds?: number;
  /** Only the cases whose name contains this. */
  readonly only?: string;
};

/** What a `touched` run writes to: wholly written before. */
const TOUCHED_BYTES = 256 << 20;
/** What a cold or first pass reads. */
const PASS_BYTES = 64 << 20;
const IMAGE_BYTES = 2 ** 31;
const FILL_BYTES = 5 * 2 ** 29;
const QUICK_IMAGE_BYTES = 2 ** 29;
/**
 * The medium decides how long a flush takes, and it scatters: single pairs came between 0.3 and 3.0. So many times the pairs, each of a
 * third of the length.
 */
const FLUSH_PAIR_FACTOR = 3;
/** What a scrub and a fill beside may take of the speed. */
const BESIDE_RATIO = 0.8;

type Side = 'ours' | 'theirs';
/** A run, and what the server paid for each operation: that is comparable even when the machine is busy with other things. */
type Run = FioResult & { readonly cpuUs: number };
type Measured = { readonly ours: Run[]; readonly theirs: Run[]; readonly ratios: readonly number[] };

const runAgainst = async (server: Serving, job: Omit<FioJob, 'uri'>): Promise<Run> => {
  const before = await server.cpuUs();
  const result = await runFio({ ...job, uri: server.uri });
  return { ...result, cpuUs: ((await server.cpuUs()) - before) / result.operations };
};

export const run = async (options: NbdBenchOptions = {}): Promise<BenchResult> => {
  const folder = await mkdtemp(join(tmpdir(), 'bench-nbd-'));
  try {
    const image = join(folder, 'image.raw');
    const imageBytes = options.imageBytes ?? (options.quick === true ? QUICK_IMAGE_BYTES : IMAGE_BYTES);
    await makeImage(image, imageBytes);
    const fillImage = join(folder, 'fill.raw');
    await makeImage(fillImage, options.quick === true ? QUICK_IMAGE_BYTES : FILL_BYTES);
    options.log?.('publishing the image and filling the cache with it');
    await using ours = await ExportSide.open(image, folder, fillImage);
    await rm(fillImage);
    const bench = new NbdBench({ ours, theirs: new QemuSide(image, folder) }, { ...options, imageBytes });
    await bench.reads();
    await bench.writes();
    await bench.beside(ours);
    await bench.passes();
    return { bench: 'nbd', machine: describeMachine(), cases: bench.cases };
  } finally {
    await rm(folder, { recursive: true });
  }
};

class NbdBench {
  readonly cases: BenchCase[] = [];
  readonly #sides: Readonly<Record<Side, NbdSide>>;
  readonly #imageBytes: number;
  readonly #pairCount: number;
  readonly #seconds: number;
  readonly #options: NbdBenchOptions;

  constructor(sides: Readonly<Record<Side, NbdSide>>, options: NbdBenchOptions) {
    this.#sides = sides;
    this.#imageBytes = options.imageBytes ?? IMAGE_BYTES;
    this.#pairCount = options.pairCount ?? (options.quick === true ? 2 : 7);
    this.#seconds = options.seconds ?? (options.quick === true ? 1 : 3);
    this.#options = options;
  }

  async reads(): Promise<void> {
    const cases = [
      { name: 'randread 4 KiB, 16 in flight', blockBytes: 4096, depth: 16, target: 1.2 },
      { name: 'randread 4 KiB, 1 in flight', blockBytes: 4096, depth: 1, target: 0.9 },
      { name: 'randread 64 KiB, 16 in flight', blockBytes: 65_536, depth: 16, target: 0.5 },
    ] as const;
    if (!cases.some(({ name }) => this.#isWanted(name))) return;
    const ours = await this.#sides.ours.serve('read');
    const theirs = await this.#sides.theirs.serve('read');
    try {
      for (const { name, blockBytes, depth, target } of cases) {
        if (!this.#isWanted(name)) continue;
        const job = { rw: 'randread', blockBytes, depth, diskBytes: this.#imageBytes, seconds: this.#seconds } as const;
        const measured = await this.#pairs(name, (who) => runAgainst(who === 'ours' ? ours : theirs, job));
        this.#judge(name, measured, target);
        this.#judgeP99(`${name}: p99`, measured, depth === 1 ? 1.5 : undefined);
      }
    } finally {
      await ours.stop();
      await theirs.stop();
    }
  }

  async writes(): Promise<void> {
    for (const flushEachWrite of [false, true]) {
      for (const ground of ['fresh', 'touched'] as const) {
        const what = flushEachWrite ? 'randwrite 4 KiB + flush, 1 in flight' : 'randwrite 4 KiB, 16 in flight';
        const name = `${what}, ${ground} ground`;
        if (!this.#isWanted(name)) continue;
        const times = flushEachWrite ? FLUSH_PAIR_FACTOR : 1;
        this.#judge(name, await this.#pairs(name, (who) => this.#writeRun(who, ground, flushEachWrite), times), 1);
      }
    }
  }

  /**
   * Beside a scrub and a cache fill at the lan's rate, against the same while server and line do that work for somebody else: they stand for other
   * computers, and have their processors here. Then against nothing beside it.
   */
  async beside(side: ExportSide): Promise<void> {
    const cases = [
      { name: 'randread 4 KiB, 16 in flight', mode: 'read', rw: 'randread', blockBytes: 4096, depth: 16 },
      { name: 'randread 4 KiB, 1 in flight', mode: 'read', rw: 'randread', blockBytes: 4096, depth: 1 },
      { name: 'randread 64 KiB, 16 in flight', mode: 'read', rw: 'randread', blockBytes: 65_536, depth: 16 },
      { name: 'randwrite 4 KiB, 16 in flight', mode: 'write', rw: 'randwrite', blockBytes: 4096, depth: 16 },
    ] as const;
    for (const { name: what, mode, ...job } of cases) {
      const name = `${what}, beside a scrub and a fill`;
      if (!this.#isWanted(name)) continue;
      side.disturbance.length = 0;
      side.carried.length = 0;
      const runBeside = async (
        begin: () => Promise<{ readonly stop: () => Promise<void> } | undefined>,
      ): Promise<Run> => {
        const server = await side.serve(mode);
        try {
          const beside = await begin();
          try {
            return await runAgainst(server, { ...job, diskBytes: this.#imageBytes, seconds: this.#seconds });
          } finally {
            await beside?.stop();
          }
        } finally {
          await server.stop();
        }
      };
      const alone: Run[] = [];
      const measured = await this.#pairs(name, async (who) => {
        if (who === 'ours') return runBeside(async () => side.disturb());
        alone.push(await runBeside(async () => undefined));
        return runBeside(async () => side.carryForOthers());
      });
      const { disturbance, carried } = side;
      const fill = median(disturbance.map((each) => (each.fillBytesPerSecond * 8) / 1e6));
      const others = median(carried.map((each) => (each.bytesPerSecond * 8) / 1e6));
      if (!disturbance.every((each) => each.isFilling)) throw new Error(`${name}: the fill ended before the run`);
      const note =
        `${interval(measured.ratios)}; ${speedOf(measured.ours)}/s against ${speedOf(measured.theirs)}/s while others download at ${others.toFixed(0)} Mbit/s; ` +
        `fill ${fill.toFixed(0)} Mbit/s, scrubbed ${median(disturbance.map((each) => each.scrubbedBytes / 1e6)).toFixed(0)} MB`;
      this.cases.push(atLeast(name, median(measured.ratios), BESIDE_RATIO, { note }));
      const ratios = measured.ours.map(({ iops }, at) => iops / (alone[at]?.iops ?? Number.NaN));
      const noteAlone = `${interval(ratios)}; ${speedOf(alone)}/s with nothing beside it`;
      this.cases.push(informs(`${name}, server and line on the same processors`, median(ratios), 'x', noteAlone));
    }
  }

  /** The page cache dropped, and the first pass after the server has started. Reported only. */
  async passes(): Promise<void> {
    for (const kind of ['cold', 'first pass'] as const) {
      const name = `randread 4 KiB, 16 in flight, ${kind}`;
      if (!this.#isWanted(name)) continue;
      const measured = await this.#pairs(name, async (who) => {
        const side = this.#sides[who];
        await side.reopen();
        if (kind === 'cold') await side.dropPages();
        const server = await side.serve('read');
        try {
          const job = { rw: 'randread', blockBytes: 4096, depth: 16, diskBytes: this.#imageBytes } as const;
          return await runAgainst(server, { ...job, totalBytes: PASS_BYTES });
        } finally {
          await server.stop();
        }
      });
      this.#judge(name, measured);
    }
  }

  async #writeRun(who: Side, ground: 'fresh' | 'touched', flushEachWrite: boolean): Promise<Run> {
    const server = await this.#sides[who].serve('write');
    try {
      const diskBytes = ground === 'fresh' ? this.#imageBytes : Math.min(TOUCHED_BYTES, this.#imageBytes);
      const common = { diskBytes } as const;
      if (ground === 'touched') {
        await runFio({ ...common, uri: server.uri, rw: 'write', blockBytes: 1 << 20, depth: 4 });
        // What was written to prepare is not to be paid for by the first flush that is measured.
        await execute('qemu-io', ['-f', 'raw', '-c', 'flush', server.uri]);
      }
      const job = { ...common, rw: 'randwrite', blockBytes: 4096, depth: flushEachWrite ? 1 : 16 } as const;
      const seconds = flushEachWrite ? this.#seconds / FLUSH_PAIR_FACTOR : this.#seconds;
      return await runAgainst(server, { ...job, seconds, flushEachWrite });
    } finally {
      await server.stop();
    }
  }

  async #pairs(name: string, measure: (who: Side) => Promise<Run>, times = 1): Promise<Measured> {
    this.#options.log?.(name);
    const results = { ours: [] as Run[], theirs: [] as Run[] };
    const side = (who: Side) => async (): Promise<number> => {
      const result = await measure(who);
      results[who].push(result);
      return result.iops;
    };
    const { ratios } = await interleavedPairs(this.#pairCount * times, side('ours'), side('theirs'));
    return { ...results, ratios };
  }

  #judge(name: string, measured: Measured, bound?: number): void {
    const speed = (who: Side): string => speedOf(measured[who]);
    const cost = (who: Side): string => median(measured[who].map((result) => result.cpuUs)).toFixed(1);
    const note =
      `${interval(measured.ratios)}; ${speed('ours')}/s against qemu-nbd's ${speed('theirs')}/s, ` +
      `server CPU ${cost('ours')} against ${cost('theirs')} us each`;
    const value = median(measured.ratios);
    this.cases.push(bound === undefined ? informs(name, value, 'x', note) : atLeast(name, value, bound, { note }));
  }

  #judgeP99(name: string, measured: Measured, bound?: number): void {
    const ratios = measured.ours.map((result, index) => result.p99Us / (measured.theirs[index]?.p99Us ?? Number.NaN));
    const note = `${interval(ratios)}; ours ${median(measured.ours.map((result) => result.p99Us)).toFixed(0)} us`;
    const value = median(ratios);
    this.cases.push(bound === undefined ? informs(name, value, 'x', note) : atMost(name, value, bound, { note }));
  }

  #isWanted(name: string): boolean {
    return this.#options.only === undefined || name.includes(this.#options.only);
  }
}

const speedOf = (runs: readonly Run[]): string => Math.round(median(runs.map((result) => result.iops))).toString();

/** Random bytes, so that nobody gains by recognising zeroes. */
const makeImage = async (path: string, imageBytes: number): Promise<void> => {
  const piece = Buffer.alloc(16 << 20);
  const file = await open(path, 'w');
  try {
    for (let done = 0; done < imageBytes; done += piece.length) {
      randomFillSync(piece);
      await file.write(piece, 0, Math.min(piece.length, imageBytes - done));
    }
    await file.sync();
  } finally {
    await file.close();
  }
};
