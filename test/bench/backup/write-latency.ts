/**
 * What a guest's writes notice of the backup: fio's random writes of 4 KiB through NBD on a block daemon, with snapshots sealed, packed, uploaded,
 * committed and taken over meanwhile, against the same without any; interleaved pairs on one disk. Once with a snapshot as often as a
 * machine has it by default, and once ten times as often. Before each run everything is saved, so that both begin with an empty top
 * layer. Then what the block path itself says of its seals.
 *
 * On a machine that others use a run in which this process was kept from running for a while is taken again; and it is said how long the block
 * daemon's serving thread waited for a processor: what it waits, its guests wait.
 */
import { readFile } from 'node:fs/promises';
import { PERIOD_SECONDS_DEFAULT, type DiskStatus } from '@collective/transceiver';
import { atMost, informs, interval, median, type BenchCase } from '../bench-result.js';
import { BackupRig, DISK } from '../dirty/backup-rig.js';
import { HybridClock } from '../dirty/hybrid-clock.js';
import { runFio, type FioResult } from '../nbd/fio.js';
import { each, latenciesOf, latencyPairs, type Kind, type LatencyPairs, type LatencyRun } from './latency-pairs.js';

const DISK_BYTES = 2 ** 31;
/** The part of the disk that is written to. */
const USED_BYTES = 256 << 20;
/** What a busy program writes: 2 MB/s in small pieces. */
const IOPS = 500;
/** Nobody snapshoots but this benchmark. */
const PERIOD_SECONDS = 3_600;
const MACHINE = 'debian';

/** Each run has two snapshots, or six. The first lies half a period after its beginning. */
type Plan = { readonly pairs: number; readonly seconds: number; readonly everySeconds: number };
const AS_BY_DEFAULT: Plan = { pairs: 3, seconds: 2 * PERIOD_SECONDS_DEFAULT, everySeconds: PERIOD_SECONDS_DEFAULT };
const TEN_TIMES: Plan = { pairs: 5, seconds: 20, everySeconds: PERIOD_SECONDS_DEFAULT / 10 };
const QUICK = { pairs: 2, seconds: 8 };

type Run = LatencyRun & { readonly waitedMs: number };
type Histogram = NonNullable<DiskStatus['seals']>['sealMs'];

/** The step in which that share of them lies: an upper bound within a factor of two. */
export const quantileMs = ({ count, maxMs, steps }: Histogram, share: number): number => {
  let seen = 0;
  for (const step of steps) {
    seen += step.count;
    if (seen >= count * share) return Math.min(step.upToMs, maxMs);
  }
  return maxMs;
};

const save = async (rig: BackupRig): Promise<void> => {
  const settled = await rig.runner.snapshot(MACHINE, 'request', { wait: true });
  if (settled !== 'saved') throw new Error(`the disk is not saved: ${settled}`);
};

/** Snapshots until `end` resolves, the last one ended. Gives how many. */
const snapshotsUntil = async (rig: BackupRig, everyMs: number, end: Promise<unknown>): Promise<number> => {
  let hasEnded = false;
  const ended = end.finally(() => (hasEnded = true)).catch(() => undefined);
  let nextMs = performance.now() + everyMs / 2;
  for (let count = 0; ; count += 1) {
    const waitMs = Math.max(0, nextMs - performance.now());
    await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, waitMs))]);
    if (hasEnded) return count;
    await save(rig);
    nextMs = Math.max(performance.now(), nextMs + everyMs);
  }
};

/** How long the serving thread, the main one of the process, was ready and had no processor, in ms since it began. */
const processorWaitMs = async (pid: number): Promise<number> =>
  Number((await readFile(`/proc/${pid}/task/${pid}/schedstat`, 'utf8')).split(' ')[1] ?? 0) / 1e6;

export const writeLatencyCases = async (quick: boolean, log: (line: string) => void): Promise<BenchCase[]> => {
  const tenTimes = await casesOfPlan({ ...TEN_TIMES, ...(quick ? QUICK : {}) }, log);
  return quick ? tenTimes : [...(await casesOfPlan(AS_BY_DEFAULT, log)), ...tenTimes];
};

const casesOfPlan = async (
  { pairs, seconds, everySeconds }: Plan,
  log: (line: string) => void,
): Promise<BenchCase[]> => {
  const clock = new HybridClock(1);
  await using rig = await BackupRig.open({ clock, diskBytes: DISK_BYTES, periodSeconds: PERIOD_SECONDS });
  const fio = async (): Promise<FioResult> =>
    runFio({
      ...{ uri: `nbd+unix:///${DISK}?socket=${rig.socket}`, rw: 'randwrite', blockBytes: 4096, depth: 1 },
      ...{ diskBytes: USED_BYTES, seconds, iopsMax: IOPS },
    });
  await fio();
  const measured = await latencyPairs(pairs, log, async (kind): Promise<Run> => {
    await save(rig);
    const beforeMs = await processorWaitMs(rig.blockdPid);
    const writing = fio();
    const snapshots = kind === 'with' ? await snapshotsUntil(rig, everySeconds * 1_000, writing) : 0;
    const result = await writing;
    return { ...result, snapshots, waitedMs: (await processorWaitMs(rig.blockdPid)) - beforeMs };
  });
  const { seals } = await rig.diskStatus();
  clock.close();
  if (seals === undefined) throw new Error('the block daemon says nothing of its seals');
  return casesOf({ ...measured, seals, everySeconds });
};

const casesOf = ({
  runs,
  ratios,
  seals,
  everySeconds,
}: LatencyPairs<Run> & {
  readonly seals: NonNullable<DiskStatus['seals']>;
  readonly everySeconds: number;
}): BenchCase[] => {
  const snapshots = runs.with.reduce((sum, run) => sum + run.snapshots, 0);
  const often = `a snapshot each ${everySeconds} s`;
  const say = (kind: Kind): string =>
    `${kind}: ${latenciesOf(runs[kind])}, no processor for ${each(runs[kind], ({ waitedMs }) => waitedMs)} ms`;
  const { sealMs, writeWaitMs } = seals;
  const late = writeWaitMs.steps.filter(({ upToMs }) => upToMs > 4).reduce((sum, { count }) => sum + count, 0);
  return [
    atMost(`p99 of writes with sealing and uploads / without, ${often}`, median(ratios), 1.1, {
      note: `ratio ${interval(ratios)}; ${say('with')}; ${say('without')}; ${IOPS}/s of 4 KiB, ${snapshots} snapshots`,
    }),
    informs(
      `longest write with / without, of all runs, ${often}`,
      Math.max(...runs.with.map(({ maxUs }) => maxUs)) / Math.max(...runs.without.map(({ maxUs }) => maxUs)),
      'x',
    ),
    atMost(`longest wait of a write while a seal was under way, ${often}`, writeWaitMs.maxMs, 5, {
      unit: 'ms',
      note: `block path's own histogram, an upper bound: ${writeWaitMs.count} writes, p50 <= ${quantileMs(writeWaitMs, 0.5).toFixed(2)}, p99 <= ${quantileMs(writeWaitMs, 0.99).toFixed(2)} ms, ${late} longer than 4 ms`,
    }),
    atMost(`seal, longest, ${often}`, sealMs.maxMs, 50, {
      unit: 'ms',
      note: `block path's own histogram: ${sealMs.count} seals, p50 <= ${quantileMs(sealMs, 0.5).toFixed(1)}, p99 <= ${quantileMs(sealMs, 0.99).toFixed(1)} ms`,
    }),
  ];
};
