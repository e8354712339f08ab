/**
 * What a test that hung or broke off has left running, when the process of its file ends: it would take the processor, or a port, from
 * every test after it. Children by their id; the processes of a home, which outlive whoever started them, by its path in their command
 * lines, and its QEMUs, whose command lines need not have it, by the records of its machines.
 */
import type { ChildProcess } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

const children = new Set<ChildProcess>();
const homes = new Set<string>();

/** Ended with this process, unless it has ended before. */
export const endsWithUs = (child: ChildProcess): void => {
  listen();
  children.add(child);
  child.once('exit', () => children.delete(child));
};

/** All processes of this home end with this process, unless `homeHasEnded` comes before. */
export const homeEndsWithUs = (home: string): void => {
  listen();
  homes.add(home);
};

export const homeHasEnded = (home: string): void => void homes.delete(home);

let isListening = false;
const listen = (): void => {
  if (isListening) return;
  isListening = true;
  process.once('exit', endAll);
  if (process.env['VITEST'] === undefined) return;
  // Vitest ends the process of a file so, and gives it half a second.
  process.once('SIGTERM', () => {
    endAll();
    process.kill(process.pid, 'SIGTERM');
  });
};

const endAll = (): void => {
  for (const child of children) child.kill('SIGKILL');
  if (homes.size === 0) return;
  const guests = [...homes].flatMap(guestsOf);
  // Once more: one of them may have started another meanwhile.
  for (let round = 0; round < 2; round += 1)
    for (const pid of namesIn('/proc')) {
      if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
      const words = textOf(`/proc/${pid}/cmdline`).split('\0');
      if (words.some((word) => isOfHome(word)) || guests.some((guest) => guest === pid && words[0]?.includes('qemu')))
        endOne(Number(pid));
    }
};

const isOfHome = (word: string): boolean =>
  [...homes].some((home) => word === home || word.startsWith(`${home}${path.sep}`));

/** Ids of the QEMUs that the home's machines say they have. */
const guestsOf = (home: string): string[] =>
  namesIn(path.join(home, 'machines')).flatMap((machine) => {
    try {
      const record = JSON.parse(textOf(path.join(home, 'machines', machine, 'machine.json'))) as {
        readonly qemu?: { readonly pid?: number } | null;
      };
      return record.qemu?.pid === undefined ? [] : [String(record.qemu.pid)];
    } catch {
      return [];
    }
  });

const namesIn = (folder: string): string[] => {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
};

const textOf = (file: string): string => {
  try {
    return readFileSync(file, 'latin1');
  } catch {
    return '';
  }
};

const endOne = (pid: number): void => {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It was faster.
  }
};
