/**
 * `npm run bench -- dirty`: the paper's figure 8 for our backup. Days of a person's writes (day-model.ts) are replayed over the real backup
 * behind a link of 384 kbit/s up, and at each moment when the person goes idle it is counted how much is not backed up.
 *
 * Time. While a part of an object is on the link, time and link run `factor` times as fast: the rate times, the round trip by the factor; what
 * the server takes to keep a part (7 ms) counts so many times, a tenth of the 1.4 s that a part of 64 KiB is on the line at a factor of 20. While anything else is under
 * way (sealing, packing, committing, taking over), time is ours, so that it costs what it costs on this machine. When nothing is, time goes to
 * the next event at once, which changes nothing. The router's queue of 64 KiB is the same in bytes.
 *
 * Beside it: a quarter of that link while a person browses, where snapshots must be collapsed and taken less often.
 */
import { writeFile } from 'node:fs/promises';
import type { LinkRates } from '../../support/link.js';
import {
  atMost,
  describeMachine,
  informs,
  median,
  type BenchCase,
  type BenchOptions,
  type BenchResult,
} from '../bench-result.js';
import { BackupRig, DISK } from './backup-rig.js';
import { makeDay, type Day, type DayOptions } from './day-model.js';
import { DirtyDisk } from './dirty-disk.js';
import { HybridClock } from './hybrid-clock.js';
import { cdfText, svgOf } from './plot.js';
import { BackupWatch, Replay, type DayRun } from './replay.js';

const PERIOD_SECONDS = 30;
/** The paper's DSL line. */
const DSL: LinkRates = { downBitsPerSecond: 1.5e6, upBitsPerSecond: 384e3, roundTripMs: 40 };
const SLOW: LinkRates = { ...DSL, upBitsPerSecond: DSL.upBitsPerSecond / 4 };
const SETTLE_MS = 600_000;
/** Of less than this the folder's own files would be most. */
const LOCAL_BYTES_MIN = 4 << 20;
const MB = 1e6;

type Plan = { readonly factor: number; readonly slowMinutes: number; readonly shape: DayOptions };
const FULL: Plan = { factor: 20, slowMinutes: 20, shape: {} };
const QUICK: Plan = { factor: 30, slowMinutes: 5, shape: { bursts: 3, burstMinutes: 6 } };

/** One day on a rig of its own. */
const replay = async (
  day: Day,
  of: { readonly seed: number; readonly factor: number; readonly rates: LinkRates; readonly drain: boolean },
): Promise<DayRun> => {
  const clock = new HybridClock(of.factor);
  const watch = new BackupWatch();
  await using rig = await BackupRig.open({
    ...{ clock, diskBytes: day.diskBytes, periodSeconds: PERIOD_SECONDS, onSeal: watch.onSeal },
    onEvent: (event) => watch.onEvent(event),
    onError: (error) => console.error(error),
  });
  const disk = await DirtyDisk.open(rig.socket, { name: DISK, diskBytes: day.diskBytes, seed: of.seed });
  watch.disk = disk;
  try {
    for (const { byteOffset, byteLength, keep } of day.initial) await disk.write(byteOffset, byteLength, keep);
    await disk.flush();
    const signal = AbortSignal.timeout(SETTLE_MS);
    const settled = await rig.runner.snapshot('debian', 'request', { wait: true, signal });
    if (settled !== 'saved') throw new Error(`the disk of the morning is not saved: ${settled}`);
    await rig.setLink(of.rates, of.factor);
    return await Replay.run(day, { rig, clock, disk, watch, drain: of.drain });
  } finally {
    disk.close();
    clock.close();
  }
};

const quantile = (values: readonly number[], share: number): number =>
  [...values].sort((a, b) => a - b)[Math.max(0, Math.ceil(values.length * share) - 1)] ?? Number.NaN;
const spread = (values: readonly number[], digits = 2): string =>
  `median ${median(values).toFixed(digits)}, p95 ${quantile(values, 0.95).toFixed(digits)}, max ${Math.max(...values).toFixed(digits)}, n=${values.length}`;

const localRatios = (runs: readonly DayRun[]): number[] =>
  runs.flatMap(({ local }) =>
    local.filter(({ changed }) => changed >= LOCAL_BYTES_MIN).map(({ changes, changed }) => changes / changed),
  );

const dayCases = (runs: readonly DayRun[], { factor }: Plan): BenchCase[] => {
  const idles = runs.flatMap((run) => run.idles);
  const dirty = idles.map(({ dirtyBytes }) => dirtyBytes / MB);
  const then = idles.map(({ dirtyBytesThen }) => dirtyBytesThen / MB);
  const saved = idles.map(({ savedAfterSeconds }) => savedAfterSeconds);
  const ratios = localRatios(runs);
  const sum = (of: (run: DayRun) => number): number => runs.reduce((total, run) => total + of(run), 0);
  const conditions = `${runs.length} day(s) of ${(sum(({ daySeconds }) => daySeconds) / runs.length / 3_600).toFixed(1)} h, link x ${factor}; written ${(sum(({ writtenBytes }) => writtenBytes) / MB).toFixed(0)} MB, sent ${(sum(({ sentBytes }) => sentBytes) / MB).toFixed(0)} MB in ${sum(({ snapshots }) => snapshots.length)} snapshots; writes at most ${Math.max(...runs.map(({ latenessSeconds }) => latenessSeconds)).toFixed(1)} s late; the machine stood still for ${sum(({ stoodStillSeconds }) => stoodStillSeconds).toFixed(0)} s, left out; troubles: ${runs.flatMap(({ troubles }) => troubles).join('; ') || 'none'}`;
  const least = runs.flatMap(({ local }) => local.filter(({ changed }) => changed < LOCAL_BYTES_MIN));
  return [
    informs('not backed up when going idle, median', median(dirty), 'MB', `${spread(dirty)}; ${conditions}`),
    informs('not backed up when going idle, p95', quantile(dirty, 0.95), 'MB'),
    informs('not backed up when going idle, max', Math.max(...dirty), 'MB', 'the paper: 35 MB at worst'),
    informs('not backed up five minutes later, p95', quantile(then, 0.95), 'MB', spread(then)),
    informs('until all is saved after going idle, p95', quantile(saved, 0.95), 's', spread(saved, 1)),
    atMost('local space / what was changed, at any moment', Math.max(...ratios), 3, {
      note: `of ${ratios.length} looks with at least 4 MiB changed; median ${median(ratios).toFixed(2)}, p95 ${quantile(ratios, 0.95).toFixed(2)}; with less, at most ${(Math.max(0, ...least.map(({ changes }) => changes)) / MB).toFixed(1)} MB`,
    }),
    informs(
      'maps and bases, at most',
      Math.max(...runs.flatMap(({ local }) => local.map(({ maps }) => maps / MB))),
      'MB',
    ),
    atMost('layers of the disk, at most', Math.max(...runs.map(({ layersMost }) => layersMost)), 3, { unit: '' }),
  ];
};

const slowCases = (usual: DayRun, slow: DayRun, minutes: number): BenchCase[] => {
  const gaps = ({ snapshots }: DayRun): number[] =>
    snapshots.slice(1).map(({ sealedAtSeconds }, at) => sealedAtSeconds - (snapshots[at]?.sealedAtSeconds ?? 0));
  const say = (run: DayRun): string =>
    `${run.snapshots.length} snapshots in ${minutes} min, ${spread(gaps(run), 0)} s apart, sent ${(run.sentBytes / MB).toFixed(1)} MB`;
  return [
    informs('usual link: seconds between snapshots', median(gaps(usual)), 's', say(usual)),
    informs('a quarter of it: seconds between snapshots', median(gaps(slow)), 's', say(slow)),
    atMost('a quarter of it: local space / what was changed', Math.max(...localRatios([slow])), 3, {
      note: spread(localRatios([slow])),
    }),
    atMost('a quarter of it: layers of the disk, at most', slow.layersMost, 3, { unit: '' }),
  ];
};

const drawn = (runs: readonly DayRun[]): { readonly text: string[]; readonly svg: string } => {
  const idles = runs.flatMap((each) => each.idles);
  const cdf = [
    { name: 'when going idle', values: idles.map(({ dirtyBytes }) => dirtyBytes) },
    { name: 'five minutes later', values: idles.map(({ dirtyBytesThen }) => dirtyBytesThen) },
  ];
  const days = runs.map(({ series, idles: moments }, at) => ({
    name: `Day ${at + 1}`,
    points: series.map(({ atSeconds, dirtyBytes }) => ({ atSeconds, bytes: dirtyBytes })),
    idleSeconds: moments.map(({ atSeconds }) => atSeconds),
  }));
  return { text: cdf.flatMap(cdfText), svg: svgOf(cdf, days) };
};

/** The parts: `day-1`, another day by its seed as `day-2` and so on, `slow`. */
export const run = async ({ quick, only, log, jsonFile }: BenchOptions): Promise<BenchResult> => {
  const plan = quick ? QUICK : FULL;
  const { factor, slowMinutes } = plan;
  const cases: BenchCase[] = [];
  const seed = Number(/^day-([0-9]+)$/.exec(only ?? 'day-1')?.[1] ?? Number.NaN);
  if (!Number.isNaN(seed)) {
    const startedMs = performance.now();
    const day = await replay(makeDay(seed, plan.shape), { seed, factor, rates: DSL, drain: true });
    const dirty = day.idles.map(({ dirtyBytes, doing }) => `${doing} ${(dirtyBytes / MB).toFixed(1)}`).join(', ');
    log(`day ${seed} in ${((performance.now() - startedMs) / 1_000).toFixed(0)} s; MB at idle: ${dirty}`);
    cases.push(...dayCases([day], plan));
    const { text, svg } = drawn([day]);
    for (const line of text) log(line);
    if (jsonFile !== undefined) await writeFile(`${jsonFile.replace(/\.json$/, '')}.svg`, svg);
  }
  if (only === undefined || only === 'slow') {
    const busy = makeDay(99, { bursts: 1, doing: 'browsing', burstMinutes: slowMinutes });
    const until = busy.events.find(({ kind }) => kind === 'idle')?.atSeconds ?? 0;
    const burst = { ...busy, events: busy.events.filter(({ atSeconds }) => atSeconds <= until) };
    const both = [];
    for (const rates of [DSL, SLOW]) {
      both.push(await replay(burst, { seed: 99, factor, rates, drain: false }));
      log(`browsing over ${rates.upBitsPerSecond / 1_000} kbit/s: ${both.at(-1)?.snapshots.length ?? 0} snapshots`);
    }
    const [usual, slow] = both;
    if (usual !== undefined && slow !== undefined) cases.push(...slowCases(usual, slow, slowMinutes));
  }
  return { bench: 'dirty', machine: describeMachine(), cases };
};
