/**
 * What a guest itself notices of the backup: fio in a Debian guest writes 4 KiB at a time to the guest's own disk, past the guest's cache, with
 * the snapshots that a machine has by default, against the same with none; interleaved pairs on one machine that runs on. Before each run everything
 * is saved, so that both begin with an empty top layer.
 */
import path from 'node:path';
import { ControlClient, PERIOD_SECONDS_DEFAULT, type DiskStatus } from '@collective/transceiver';
import { APPLIANCE, KillsLab } from '../../kills/kills-lab.js';
import type { GuestShell } from '../../kills/guest-shell.js';
import { runOrThrow } from '../../support/child.js';
import { eventually } from '../../support/eventually.js';
import { atMost, interval, median, type BenchCase } from '../bench-result.js';
import { resultOf, type FioResult } from '../nbd/fio.js';
import { each, latenciesOf, latencyPairs, type Kind } from './latency-pairs.js';
import { prepareGuest } from './workloads.js';

const DISK = 'user';
/** What a busy program writes in small pieces. */
const IOPS = 50;
const FILE_BYTES = 64 << 20;
/** No periodic snapshot comes within a run. */
const NEVER_SECONDS = 86_400;
const TAKE_MS = 300_000;
/** With all of the work for two snapshots in each run, or for one. */
const PLAN = { pairs: 5, seconds: 2.5 * PERIOD_SECONDS_DEFAULT };
const QUICK = { pairs: 2, seconds: 1.5 * PERIOD_SECONDS_DEFAULT };

type Histogram = NonNullable<DiskStatus['seals']>['sealMs'];

const write = async (guest: GuestShell, seconds: number): Promise<FioResult> => {
  const words = [
    ...['fio', '--name=latency', '--filename=/home/latency', `--size=${FILE_BYTES}`, '--rw=randwrite', '--bs=4k'],
    ...['--ioengine=psync', '--direct=1', `--rate_iops=${IOPS}`, '--time_based', `--runtime=${seconds}`],
    ...['--randrepeat=0', '--output-format=json'],
  ];
  return resultOf(await guest.check(words.join(' '), (seconds + 120) * 1_000), 'write');
};

/** Saved, and what was sealed for it has been taken over: nothing of the backup is under way. */
const atRest = async ({ person }: KillsLab): Promise<void> => {
  await person.json(['snapshots', 'take', APPLIANCE], { timeoutMs: TAKE_MS });
  await eventually('the backup rests', TAKE_MS, async () => {
    const { machines } = (await person.json(['status'])) as unknown as {
      readonly machines: readonly { readonly data?: { readonly activity: string } }[];
    };
    return machines[0]?.data?.activity === 'idle' ? true : undefined;
  });
};

const newestSnapshot = async ({ person }: KillsLab): Promise<number> => {
  const { snapshots } = (await person.json(['snapshots', APPLIANCE])) as {
    readonly snapshots: readonly { readonly number: number }[];
  };
  return Math.max(0, ...snapshots.map(({ number }) => number));
};

const sealsOf = async ({ person }: KillsLab): Promise<NonNullable<DiskStatus['seals']>> => {
  const control = await ControlClient.connect(path.join(person.home, 'run/blockd.sock'));
  try {
    const { disks } = await control.request('status', {});
    const seals = disks.find(({ session, disk }) => session === APPLIANCE && disk === DISK)?.seals;
    if (seals === undefined) throw new Error(`the block daemon says nothing of the seals of ${DISK}`);
    return seals;
  } finally {
    control.close();
  }
};

/** What came since: how many, and the longest as far as its step says it. */
const since = (before: Histogram, now: Histogram): { readonly count: number; readonly maxMs: number } => {
  const seen = new Map(before.steps.map(({ upToMs, count }) => [upToMs, count]));
  const newer = now.steps.filter(({ upToMs, count }) => count > (seen.get(upToMs) ?? 0));
  return {
    count: now.count - before.count,
    maxMs: Math.min(now.maxMs, Math.max(0, ...newer.map(({ upToMs }) => upToMs))),
  };
};

export const guestLatencyCases = async (quick: boolean, log: (line: string) => void): Promise<BenchCase[]> => {
  const { pairs, seconds } = quick ? QUICK : PLAN;
  log('building, publishing, starting');
  await using lab = await KillsLab.open(1);
  // They stand for other computers, and have the processors of this one only when nobody here wants them.
  for (const { process } of [lab.repository.process, lab.link.process])
    await runOrThrow('chrt', ['--all-tasks', '--idle', '--pid', '0', String(process.pid)]);
  const guest = await lab.start();
  await prepareGuest(guest, 'fio');
  await write(guest, 5);
  const sealsBefore = await sealsOf(lab);
  const { runs, ratios } = await latencyPairs(pairs, log, async (kind) => {
    const period = kind === 'with' ? PERIOD_SECONDS_DEFAULT : NEVER_SECONDS;
    await lab.person.json(['snapshots', 'every', APPLIANCE, String(period)]);
    await atRest(lab);
    const before = await newestSnapshot(lab);
    const result = await write(guest, seconds);
    return { ...result, snapshots: (await newestSnapshot(lab)) - before };
  });
  if (runs.with.some(({ snapshots }) => snapshots === 0)) throw new Error('a run with snapshots had none');
  if (runs.without.some(({ snapshots }) => snapshots > 0)) throw new Error('a run without snapshots had some');
  const seals = await sealsOf(lab);
  const sealMs = since(sealsBefore.sealMs, seals.sealMs);
  const writeWaitMs = since(sealsBefore.writeWaitMs, seals.writeWaitMs);
  const say = (kind: Kind): string =>
    `${kind}: ${latenciesOf(runs[kind])}, ${each(runs[kind], ({ snapshots }) => snapshots)} snapshots`;
  return [
    atMost('in the guest: p99 of writes with sealing and uploads / without', median(ratios), 1.1, {
      note: `ratio ${interval(ratios)}; ${say('with')}; ${say('without')}; ${IOPS}/s of 4 KiB for ${seconds} s, a snapshot each ${PERIOD_SECONDS_DEFAULT} s`,
    }),
    atMost('in the guest: longest wait of a write while a seal was under way', writeWaitMs.maxMs, 5, {
      unit: 'ms',
      note: `block path's own histogram, an upper bound: ${writeWaitMs.count} writes`,
    }),
    atMost('in the guest: seal, longest', sealMs.maxMs, 50, {
      unit: 'ms',
      note: `block path's own histogram: ${sealMs.count} seals`,
    }),
  ];
};
