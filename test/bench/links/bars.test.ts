/** Which figures stand for which bar. */
import { expect, it } from 'vitest';
import { atMost, informs, type BenchResult } from '../bench-result.js';
import { BARS, barRows, type Bar } from './bars.js';

const bars: readonly Bar[] = [
  { bar: 'real boot, lan', bench: 'boot', only: 'lan', cases: /^lan: cold with trace \/ / },
  { bar: 'a storm', bench: 'storm', cases: /./ },
];
const result = (at: string, value: number): BenchResult => ({
  bench: 'boot',
  machine: 'm',
  at,
  commit: 'abc',
  cases: [atMost('lan: cold with trace / T*', value, 1.1), informs('lan: cold with trace / local', 2, 'x')],
});

it('of several runs the newest counts, cases without a target are no bars, and what was not measured misses', () => {
  const rows = barRows(bars, [result('2026-12-02T10:00:00Z', 1.05), result('2026-12-01T10:00:00Z', 1.5)]);
  expect(rows).toMatchObject([
    { case: 'real boot, lan | lan: cold with trace / T*', value: 1.05, pass: true, note: '2026-12-02, abc' },
    { case: 'a storm', pass: false, note: 'not measured: npm run bench -- storm --json DIR/NAME.json' },
  ]);
});

it('a miss stays one', () => {
  expect(barRows(bars.slice(0, 1), [result('2026-12-02T10:00:00Z', 1.11)])).toMatchObject([{ pass: false }]);
});

it('every link has its bars, by the player and by real boots', () => {
  for (const link of ['lan', 'cable', 'lte', 'dsl'])
    expect(BARS.filter(({ bar }) => bar.includes(`, ${link}`)).length).toBeGreaterThanOrEqual(6);
});
