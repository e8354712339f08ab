/** What a process and its children have used so far, by the kernel's own counts (/proc). */
import { readdirSync, readFileSync } from 'node:fs';

/** Linux counts processor time for /proc in hundredths of a second. */
const TICKS_PER_SECOND = 100;

export type ProcessUsage = {
  /** User and system time of all threads, those that have ended too, and of children that have ended and were waited for. */
  readonly cpuSeconds: number;
  /** The most memory that each has had, added up; what they share is counted in each. */
  readonly peakBytes: number;
};

type Stat = { readonly parent: number; readonly ticks: number };

const statOf = (pid: number): Stat | undefined => {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined; // it has ended
  }
  // From the third field on: the second is the program's name, in parentheses, and may hold anything.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const field = (number: number): number => Number(fields[number - 3]);
  return { parent: field(4), ticks: field(14) + field(15) + field(16) + field(17) };
};

const peakBytesOf = (pid: number): number => {
  try {
    const [, kibibytes] = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1')) ?? [];
    return Number(kibibytes ?? 0) * 1024;
  } catch {
    return 0;
  }
};

const familyOf = (root: number): number[] => {
  const pids = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
  const parents = new Map(pids.map((pid) => [pid, statOf(pid)?.parent]));
  const family = [root];
  for (const member of family) family.push(...pids.filter((pid) => parents.get(pid) === member));
  return family;
};

/** Of the process and all that it has started. */
export const processUsage = (pid: number): ProcessUsage => {
  const family = familyOf(pid);
  const ticks = family.reduce((sum, each) => sum + (statOf(each)?.ticks ?? 0), 0);
  return {
    cpuSeconds: ticks / TICKS_PER_SECOND,
    peakBytes: family.reduce((sum, each) => sum + peakBytesOf(each), 0),
  };
};
