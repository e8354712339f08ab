/**
 * A process that may not be our child, named so that a reused process id cannot be mistaken for it: the id together with the
 * start time in clock ticks since boot (field 22 of /proc/PID/stat) and the boot id of the machine.
 */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';

export type ProcessIdentity = {
  readonly pid: number;
  readonly startTicks: number;
  /** /proc/sys/kernel/random/boot_id */
  readonly boot: string;
};

/** Undefined when there is no such process, or only its zombie. */
export async function identifyProcess(pid: number): Promise<ProcessIdentity | undefined> {
  try {
    const [stat, boot] = await Promise.all([
      readFile(`/proc/${pid}/stat`, 'latin1'),
      readFile('/proc/sys/kernel/random/boot_id', 'latin1'),
    ]);
    // The second field is the program's name in parentheses and may hold anything: count from the last parenthesis.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const [state, startTicks] = [fields[0], Number(fields[19])];
    if (state === 'Z' || state === 'X' || !Number.isSafeInteger(startTicks)) return undefined;
    return { pid, startTicks, boot: boot.trim() };
  } catch {
    return undefined;
  }
}

export async function isAlive(process: ProcessIdentity): Promise<boolean> {
  const now = await identifyProcess(process.pid);
  return now !== undefined && now.startTicks === process.startTicks && now.boot === process.boot;
}

/** Sends the signal if that very process still runs; false when it does not. */
export async function signalProcess(target: ProcessIdentity, signal: NodeJS.Signals): Promise<boolean> {
  if (!(await isAlive(target))) return false;
  try {
    return process.kill(target.pid, signal);
  } catch {
    return false;
  }
}

/** True when the process is gone within the time. */
export async function waitForEnd(process: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  const giveUpAt = performance.now() + timeoutMs;
  while (await isAlive(process)) {
    if (performance.now() >= giveUpAt) return false;
    await delay(20);
  }
  return true;
}
