/**
 * `npm run bench -- figure-5`: of the workstation's system disk, what sessions that differ (sessions.ts) read, and how many distinct blocks that
 * was, beside what they could have read.
 */
import { describeMachine, informs, interval, type BenchOptions, type BenchResult } from '../bench-result.js';
import { COLOURS, frame, legend, polyline, svgOfPanels } from '../svg.js';
import { together } from './popularity.js';
import { recordedSessions, type RecordedSessions } from './sessions.js';

const MB = 1e6;

type Touched = { readonly name: string; readonly readMB: number; readonly uniqueMB: number; readonly newMB: number };

const touchedBy = ({ blockBytes, sessions }: RecordedSessions): Touched[] => {
  const seen = new Set<number>();
  return sessions.map(({ name, readBytes, accesses }) => {
    const before = seen.size;
    for (const block of accesses.keys()) seen.add(block);
    return {
      name,
      readMB: readBytes / MB,
      uniqueMB: (accesses.size * blockBytes) / MB,
      newMB: ((seen.size - before) * blockBytes) / MB,
    };
  });
};

const svgOf = (touched: readonly Touched[]): string => {
  const most = touched.reduce((sum, { readMB }) => sum + readMB, 0);
  const line = (name: string, of: (row: Touched) => number, at: number): string => {
    const colour = COLOURS[at % COLOURS.length] ?? 'black';
    let sum = 0;
    const points = touched.map((row, index) => [(index + 1) / touched.length, (sum += of(row)) / most] as const);
    return polyline([[0, 0], ...points], colour) + legend(name, colour, at);
  };
  const title = 'What sessions read of an appliance, one after the other';
  return svgOfPanels([
    frame(title, { most: touched.length, unit: 'sessions' }, { most, unit: 'MB, summed' }) +
      line('read', ({ readMB }) => readMB, 0) +
      line('of blocks that no session before touched', ({ newMB }) => newMB, 1),
  ]);
};

export const run = async ({ quick, log }: BenchOptions): Promise<BenchResult> => {
  const recorded = await recordedSessions({ quick, log });
  const touched = touchedBy(recorded);
  const readMB = touched.reduce((sum, each) => sum + each.readMB, 0);
  const uniqueMB = (together(recorded.sessions.map(({ accesses }) => accesses)).size * recorded.blockBytes) / MB;
  const accessibleMB = recorded.accessibleBytes / MB;
  const share = (part: number): string => `${((100 * part) / accessibleMB).toFixed(1)} % of what is accessible`;
  return {
    bench: 'figure-5',
    machine: describeMachine(),
    rounds: 1,
    cases: [
      informs('accessible', accessibleMB, 'MB', 'blocks of the system disk that are not zero, not compressed'),
      informs('accesses of all sessions', readMB, 'MB', `${touched.length} sessions`),
      informs('unique blocks of all sessions', uniqueMB, 'MB', share(uniqueMB)),
      informs(
        'unique blocks of one session',
        touched.reduce((sum, each) => sum + each.uniqueMB, 0) / touched.length,
        'MB',
        `on average; ${interval(
          touched.map((each) => each.uniqueMB),
          1,
        )}`,
      ),
      ...touched.map((each) =>
        informs(
          `${each.name}: unique`,
          each.uniqueMB,
          'MB',
          `${share(each.uniqueMB)}; read ${each.readMB.toFixed(1)} MB; ${each.newMB.toFixed(1)} MB that no session before touched`,
        ),
      ),
    ],
    data: touched,
    svg: svgOf(touched),
  };
};
