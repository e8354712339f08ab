/**
 * `bench nbd`: the same image in the page cache, fio's nbd engine, one connection: our server against qemu-nbd on the raw
 * file (reads) and on a qcow2 overlay with the same backing (writes), in interleaved pairs.
 *
 * Our side is a command template, so that any program that serves the image over NBD can be measured: {image}, {socket} and
 * {overlay} (a folder, writable runs only) are filled in.
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
import { NbdProgram } from './nbd-program.js';
import { SERVE_FILE } from './serve-file-path.js';

const execute = promisify(execFile);

export type NbdBenchOptions = Partial<BenchOptions> & {
  /** Serves {image} read-only on {socket}. */
  readonly readCommand?: readonly string[];
  /** Serves {image} with writes going to {overlay}. */
  readonly writeCommand?: readonly string[];
  /** The export's name with both. Default: disk. */
  readonly exportName?: string;
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

type Side = 'ours' | 'theirs';
/** A run, and what the server paid for each operation: that is comparable even when the machine is busy with other things. */
type Run = FioResult & { readonly cpuUs: number };
type Measured = { readonly ours: Run[]; readonly theirs: Run[]; readonly ratios: readonly number[] };

const runAgainst = async (server: NbdProgram, job: Omit<FioJob, 'uri'>): Promise<Run> => {
  const before = await server.cpuUs();
  const result = await runFio({ ...job, uri: server.uri });
  return { ...result, cpuUs: ((await server.cpuUs()) - before) / result.operations };
};

export const run = async (options: NbdBenchOptions = {}): Promise<BenchResult> => {
  const folder = await mkdtemp(join(tmpdir(), 'bench-nbd-'));
  try {
    const bench = new NbdBench(folder, options);
    await bench.makeImage();
    await bench.reads();
    await bench.writes();
    await bench.passes();
    return { bench: 'nbd', machine: describeMachine(), cases: bench.cases };
  } finally {
    await rm(folder, { recursive: true });
  }
};

class NbdBench {
  readonly cases: BenchCase[] = [];
  readonly #folder: string;
  readonly #image: string;
  readonly #imageBytes: number;
  readonly #pairCount: number;
  readonly #seconds: number;
  readonly #options: NbdBenchOptions;
  #runs = 0;

  constructor(folder: string, options: NbdBenchOptions) {
    this.#folder = folder;
    this.#image = join(folder, 'image.raw');
    this.#imageBytes = options.imageBytes ?? 2 ** 31;
    this.#pairCount = options.pairCount ?? (options.quick === true ? 2 : 7);
    this.#seconds = options.seconds ?? (options.quick === true ? 1 : 3);
    this.#options = options;
  }

  /** Random bytes, so that nobody gains by recognising zeroes. */
  async makeImage(): Promise<void> {
    const piece = Buffer.alloc(16 << 20);
    const file = await open(this.#image, 'w');
    try {
      for (let done = 0; done < this.#imageBytes; done += piece.length) {
        randomFillSync(piece);
        await file.write(piece, 0, Math.min(piece.length, this.#imageBytes - done));
      }
      await file.sync();
    } finally {
      await file.close();
    }
  }

  async reads(): Promise<void> {
    const cases = [
      { name: 'randread 4 KiB, 16 in flight', blockBytes: 4096, depth: 16, target: 1.2 },
      { name: 'randread 4 KiB, 1 in flight', blockBytes: 4096, depth: 1, target: 0.9 },
      { name: 'randread 64 KiB, 16 in flight', blockBytes: 65_536, depth: 16, target: 0.5 },
    ] as const;
    if (!cases.some(({ name }) => this.#isWanted(name))) return;
    const ours = await this.#serve('ours', 'read', '');
    const theirs = await this.#serve('theirs', 'read', '');
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
        this.#judge(name, await this.#pairs(name, (who) => this.#writeRun(who, ground, flushEachWrite)), 1);
      }
    }
  }

  /** The page cache dropped, and the first pass after the server has started. Reported only. */
  async passes(): Promise<void> {
    for (const kind of ['cold', 'first pass'] as const) {
      const name = `randread 4 KiB, 16 in flight, ${kind}`;
      if (!this.#isWanted(name)) continue;
      const measured = await this.#pairs(name, async (who) => {
        // `dd count=0 iflag=nocache` asks the kernel to forget the file's pages.
        if (kind === 'cold') await execute('dd', [`if=${this.#image}`, 'iflag=nocache', 'count=0', 'status=none']);
        else await execute('dd', [`if=${this.#image}`, 'of=/dev/null', 'bs=1M', 'status=none']);
        const server = await this.#serve(who, 'read', '');
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
    const overlay = join(this.#folder, `overlay-${(this.#runs += 1)}`);
    const server = await this.#serve(who, 'write', overlay);
    try {
      const diskBytes = ground === 'fresh' ? this.#imageBytes : Math.min(TOUCHED_BYTES, this.#imageBytes);
      const common = { diskBytes } as const;
      if (ground === 'touched') {
        await runFio({ ...common, uri: server.uri, rw: 'write', blockBytes: 1 << 20, depth: 4 });
        // What was written to prepare is not to be paid for by the first flush that is measured.
        await execute('qemu-io', ['-f', 'raw', '-c', 'flush', server.uri]);
      }
      const job = { ...common, rw: 'randwrite', blockBytes: 4096, depth: flushEachWrite ? 1 : 16 } as const;
      return await runAgainst(server, { ...job, seconds: this.#seconds, flushEachWrite });
    } finally {
      await server.stop();
      await rm(overlay, { recursive: true });
    }
  }

  async #serve(who: Side, mode: 'read' | 'write', overlay: string): Promise<NbdProgram> {
    const socket = join(this.#folder, `${who}.sock`);
    if (who === 'theirs') return this.#serveWithQemu(mode, overlay, socket);
    const template =
      mode === 'read'
        ? (this.#options.readCommand ?? [process.execPath, SERVE_FILE, '--file', '{image}', '--socket', '{socket}'])
        : (this.#options.writeCommand ?? [
            ...[process.execPath, SERVE_FILE, '--file', '{image}', '--socket', '{socket}'],
            ...['--overlay', '{overlay}'],
          ]);
    const fill = (word: string): string =>
      word.replace('{image}', this.#image).replace('{socket}', socket).replace('{overlay}', overlay);
    return NbdProgram.start(template.map(fill), { socket, exportName: this.#options.exportName ?? 'disk' });
  }

  async #serveWithQemu(mode: 'read' | 'write', overlay: string, socket: string): Promise<NbdProgram> {
    const common = ['qemu-nbd', '-k', socket, '--cache=writeback', '-e', '1', '-t'];
    if (mode === 'write') {
      await execute('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', this.#image, '-F', 'raw', overlay]);
    }
    const command = mode === 'read' ? [...common, '-r', '-f', 'raw', this.#image] : [...common, '-f', 'qcow2', overlay];
    return NbdProgram.start(command, { socket, exportName: '' });
  }

  async #pairs(name: string, measure: (who: Side) => Promise<Run>): Promise<Measured> {
    this.#options.log?.(name);
    const results = { ours: [] as Run[], theirs: [] as Run[] };
    const side = (who: Side) => async (): Promise<number> => {
      const result = await measure(who);
      results[who].push(result);
      return result.iops;
    };
    const { ratios } = await interleavedPairs(this.#pairCount, side('ours'), side('theirs'));
    return { ...results, ratios };
  }

  #judge(name: string, measured: Measured, bound?: number): void {
    const speed = (who: Side): string => Math.round(median(measured[who].map((result) => result.iops))).toString();
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
