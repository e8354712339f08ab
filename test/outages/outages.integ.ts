/**
 * An outage is a pause (DESIGN §1, promise 4): tiny guests lose the link in each phase of their boot, on each bus, with each firmware, by
 * closed connections and by silence. Meanwhile status and display answer; afterwards they go on by themselves and have noticed nothing.
 *
 * Here runs a cover: each phase on each bus, with firmware and kind of outage alternating, and outages that are longer than every waiting
 * time. `OUTAGES=full` runs the whole matrix with outages of a minute, and one of 15 minutes (`OUTAGES=long`: only that one). It
 * remembers in build/outages.json which cells have passed, and begins with the others the next time.
 */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { median } from '../bench/bench-result.js';
import { BUILD } from '../support/paths.js';
import { expectPromised, machineNow, type MachineNow } from '../support/promise-time.js';
import { cellName, type Cell, type CellResult, PHASES, runCell } from './outage-cell.js';

const BUSES = ['virtio', 'sata', 'ide'] as const;
const FIRMWARES = ['bios', 'uefi'] as const;
const OUTAGES = ['reset', 'silence', '503', '401'] as const;

/** Longer than the 5 s that a read waits on virtio, and than one attempt that falls silent after that. */
const SHORT_MS = 8_000;
const MINUTE_MS = 60_000;
/** When it is to be stopped, as soon as it is paused. */
const AT_ONCE_MS = 0;
const ANSWER_MS_MAX = 1_000;
const GOES_ON_MS_MAX = 3_000;
const ENOUGH_TO_JUDGE = 5;
const CELLS_AT_ONCE = Number(process.env['OUTAGES_AT_ONCE'] ?? 2);

/** A server that answers, but not with blocks: each phase, ending, answer, bus and firmware. */
const answering: readonly Cell[] = [
  { phase: 'firmware', bus: 'ide', firmware: 'uefi', outage: '503', ending: 'goes on', outageMs: SHORT_MS },
  { phase: 'boot loader', bus: 'sata', firmware: 'bios', outage: '401', ending: 'stop', outageMs: AT_ONCE_MS },
  { phase: 'kernel', bus: 'virtio', firmware: 'uefi', outage: '503', ending: 'suspend', outageMs: AT_ONCE_MS },
  { phase: 'after login', bus: 'ide', firmware: 'bios', outage: '401', ending: 'suspend', outageMs: AT_ONCE_MS },
];

const cuts: readonly Cell[] = PHASES.flatMap((phase, p) =>
  BUSES.flatMap((bus, b): Cell[] => {
    const firmware = (p + b) % 2 === 0 ? 'bios' : 'uefi';
    const outage = ((p >> 1) + b) % 2 === 0 ? 'reset' : 'silence';
    return [
      { phase, bus, firmware, outage, ending: 'goes on', outageMs: SHORT_MS },
      // Either ends the cell, so they take turns.
      {
        phase,
        bus,
        firmware,
        outage: outage === 'reset' ? 'silence' : 'reset',
        ending: (p + b) % 2 === 0 ? 'stop' : 'suspend',
        outageMs: AT_ONCE_MS,
      },
    ];
  }),
);

const cover: readonly Cell[] = [...cuts, ...answering];

const long: readonly Cell[] = [
  {
    phase: 'after login',
    bus: 'virtio',
    firmware: 'bios',
    outage: 'silence',
    ending: 'goes on',
    outageMs: 15 * MINUTE_MS,
  },
];

const full: readonly Cell[] = [
  ...long,
  ...PHASES.flatMap((phase) =>
    BUSES.flatMap((bus) =>
      FIRMWARES.flatMap((firmware) =>
        OUTAGES.flatMap((outage): Cell[] => [
          { phase, bus, firmware, outage, ending: 'goes on', outageMs: MINUTE_MS },
          { phase, bus, firmware, outage, ending: 'stop', outageMs: AT_ONCE_MS },
          { phase, bus, firmware, outage, ending: 'suspend', outageMs: AT_ONCE_MS },
        ]),
      ),
    ),
  ),
];

const wanted = process.env['OUTAGES'] ?? 'cover';
const cells = { cover, full, long }[wanted];
if (cells === undefined) throw new Error(`OUTAGES is cover, full or long, not ${wanted}`);

const stateFile = path.join(BUILD, 'outages.json');
const passed = new Map<string, CellResult>(
  wanted === 'cover'
    ? []
    : (JSON.parse(await readFile(stateFile, 'utf8').catch(() => '[]')) as readonly [string, CellResult][]),
);
const keyOf = (cell: Cell): string => `${cellName(cell)}, ${cell.outageMs / 1000} s`;
const isLeft = (cell: Cell): boolean => !passed.has(keyOf(cell));

/** Waits for its turn: so many cells at once. */
let running = 0;
const queue: (() => void)[] = [];
const inTurn = async <T>(work: () => Promise<T>): Promise<T> => {
  if (running >= CELLS_AT_ONCE) await new Promise<void>((resolve) => queue.push(resolve));
  else running += 1;
  try {
    return await work();
  } finally {
    const next = queue.shift();
    if (next === undefined) running -= 1;
    else next();
  }
};

/** By what was measured, `promisedShare` of each time. */
const shares = new Map<string, number[]>();

const judge = ({ answers, outcome }: CellResult, before: MachineNow, after: MachineNow): void => {
  const isPromised = (what: string, tookMs: number, promisedMs = ANSWER_MS_MAX): void => {
    const share = expectPromised(what, tookMs, promisedMs, before, after);
    shares.set(what, [...(shares.get(what) ?? []), share]);
  };
  expect(answers.statusCount).toBeGreaterThan(0);
  expect(answers.displayCount).toBeGreaterThan(0);
  isPromised('status', answers.statusMs);
  isPromised('the display', answers.displayMs);
  isPromised('a picture of the screen', answers.screendumpMs);
  switch (outcome.ending) {
    case 'stop':
      isPromised('stop', outcome.stoppedMs);
      return;
    case 'suspend':
      isPromised('suspend', outcome.suspendedMs);
      expect(outcome.diskErrors).toEqual([]);
      expect(outcome.isContentRight).toBe(true);
      return;
    case 'goes on':
      isPromised('going on', outcome.goesOnAfterMs, GOES_ON_MS_MAX);
      expect(outcome.diskErrors).toEqual([]);
      expect(outcome.isContentRight).toBe(true);
      return;
    default:
      outcome satisfies never;
  }
};

describe.concurrent('an outage', () => {
  test.each(cells.filter(isLeft).map((cell) => ({ name: cellName(cell), cell })))(
    '$name',
    { timeout: 3 * 3_600_000 },
    async ({ cell }) => {
      const { result, before, after } = await inTurn(async () => ({
        before: machineNow(),
        result: await runCell(cell),
        after: machineNow(),
      }));
      try {
        judge(result, before, after);
      } catch (error) {
        console.error(keyOf(cell), JSON.stringify({ before, after, result }));
        throw error;
      }
      passed.set(keyOf(cell), result);
      if (wanted !== 'cover') await writeFile(stateFile, `${JSON.stringify([...passed], undefined, 1)}\n`);
    },
  );
});

/** Slowest answer of all, with the cell that gave it. */
const slowest = (name: string, measured: (result: CellResult) => number | undefined): string => {
  const all = [...passed].flatMap(([key, result]) => {
    const ms = measured(result);
    return ms === undefined ? [] : [{ key, ms }];
  });
  const worst = all.sort((a, b) => b.ms - a.ms)[0];
  return worst === undefined ? '' : `${name}: at most ${worst.ms} ms in ${all.length} cells (${worst.key})`;
};

afterAll(() => {
  const lines = [
    slowest('status', ({ answers }) => answers.statusMs),
    slowest('display', ({ answers }) => answers.displayMs),
    slowest('screendump', ({ answers }) => answers.screendumpMs),
    slowest('stop', ({ outcome }) => (outcome.ending === 'stop' ? outcome.stoppedMs : undefined)),
    slowest('suspend', ({ outcome }) => (outcome.ending === 'suspend' ? outcome.suspendedMs : undefined)),
    slowest('resume', ({ outcome }) => (outcome.ending === 'suspend' ? outcome.resumedMs : undefined)),
    slowest('going on', ({ outcome }) => (outcome.ending === 'goes on' ? outcome.goesOnAfterMs : undefined)),
  ];
  console.log(lines.filter((line) => line !== '').join('\n'));
  // Half of the times, with what the machine took from them allowed for, are within what is promised.
  for (const [what, all] of shares)
    if (all.length >= ENOUGH_TO_JUDGE) expect(median(all), `${what}, of ${all.length}`).toBeLessThan(1);
});
