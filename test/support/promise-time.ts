/**
 * How long something took that is promised within a time, on a machine that others use as well: what the machine itself took from it is
 * measured beside it. The time in which this process could not run at all is not counted; and the bar is longer in the proportion in which
 * a program that wants to run has to wait for its turn, and a file for the disk.
 *
 * One measurement on such a machine shows only that nothing waited for a time-out: in `npm test` it may take several times what is promised.
 * The promise itself is judged over many (`promisedShare`, its median), and one by one in the soak (`PROMISES=strict`).
 */
import { closeSync, fsyncSync, openSync, rmSync, writeSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { awakeMs } from '@collective/transceiver';

export { awakeMs };

const SPIN_MS = 40;
const PROGRAMS_PER_CORE = 2;
/** Beyond that a slow answer is our own. */
const CROWDING_MAX = 8;
/** So often something promised waits for the disk, at most. */
const SYNCS = 5;
const ONE_MAY_TAKE = process.env['PROMISES'] === 'strict' ? 1 : 5;

/** 1: a program that wants to run runs. 2: half of the time, and so on. By the load of the last minute, and by trying it now. */
const crowding = (): number => {
  const byLoad = (os.loadavg()[0] ?? 0) / os.availableParallelism() / PROGRAMS_PER_CORE;
  const before = process.cpuUsage();
  const beganMs = performance.now();
  while (performance.now() - beganMs < SPIN_MS);
  const { user, system } = process.cpuUsage(before);
  const byTrial = (performance.now() - beganMs) / Math.max(1, (user + system) / 1_000);
  return Math.min(CROWDING_MAX, Math.max(1, byLoad, byTrial));
};

/** How long a small file takes to be on the disk. */
const syncMs = (): number => {
  const file = path.join(os.tmpdir(), `sync-${process.pid}`);
  const beganMs = performance.now();
  const handle = openSync(file, 'w');
  try {
    writeSync(handle, Buffer.alloc(4_096, 1));
    fsyncSync(handle);
    return performance.now() - beganMs;
  } finally {
    closeSync(handle);
    rmSync(file, { force: true });
  }
};

/** By how much bars are longer now: the factor, as crowding() gives it, and the time for the disk. */
export type MachineNow = { readonly crowded: number; readonly diskMs: number };

export const machineNow = (): MachineNow => ({ crowded: crowding(), diskMs: SYNCS * syncMs() });

/** What took so long, as a share of what is promised, on the slower of these two machines: below 1 the promise is kept. */
export const promisedShare = (tookMs: number, promisedMs: number, before: MachineNow, after: MachineNow): number =>
  tookMs / (promisedMs * Math.max(before.crowded, after.crowded) + Math.max(before.diskMs, after.diskMs));

/** Fails naming it when one measurement took longer than one may, and the machine is not why; gives its `promisedShare`. */
export const expectPromised = (
  what: string,
  tookMs: number,
  promisedMs: number,
  before: MachineNow,
  after: MachineNow,
): number => {
  const share = promisedShare(tookMs, promisedMs, before, after);
  if (share >= ONE_MAY_TAKE)
    throw new Error(
      `${what} took ${tookMs.toFixed(0)} ms; ${promisedMs} ms are promised, here now ${(tookMs / share).toFixed(0)} ms, and one may take ${ONE_MAY_TAKE} times that`,
    );
  return share;
};

/** Does the work, which is promised within `promisedMs`; fails as `expectPromised`. */
export const withinTime = async <T>(what: string, promisedMs: number, work: () => Promise<T>): Promise<T> => {
  const before = machineNow();
  const beganMs = awakeMs();
  const result = await work();
  expectPromised(what, awakeMs() - beganMs, promisedMs, before, machineNow());
  return result;
};
