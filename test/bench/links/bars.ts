/**
 * The bars of cold starts over slow lines (issue 5), and which benchmark has each: its name, the part that measures it, and how its cases are called. A bar
 * is written down in its benchmark alone.
 */
import type { BenchCase, BenchResult } from '../bench-result.js';

export type Bar = {
  readonly bar: string;
  readonly bench: string;
  /** Absent: the whole benchmark. */
  readonly only?: string;
  readonly cases: RegExp;
};

const LINKS = ['lan', 'cable', 'lte', 'dsl'] as const;

const playedBars = LINKS.flatMap((link): Bar[] => [
  ...(['1', '0.3'] as const).map((think) => ({
    bar: `player, ${link}, think x ${think} / T*`,
    bench: 'trace',
    only: 'traced',
    cases: new RegExp(`^${link}, think x ${think.replace('.', '\\.')}: with its trace / T\\*$`),
  })),
  {
    bar: `player, ${link}, bytes / chunks`,
    bench: 'trace',
    only: 'traced',
    cases: new RegExp(`^${link}, think x [\\d.]+: with its trace, bytes / chunks$`),
  },
]);

const bootBars = LINKS.flatMap((link): Bar[] => [
  { bar: `real boot, ${link}`, bench: 'boot', only: link, cases: new RegExp(`^${link}: cold with trace / `) },
  {
    bar: `real boot, ${link}, bytes / chunks`,
    bench: 'boot',
    only: link,
    cases: new RegExp(`^${link}: cold with trace: bytes on the wire / `),
  },
]);

const packetBars = (['cable', 'lte'] as const).map((link): Bar => ({
  bar: `real boot, the kernel's TCP, ${link}`,
  bench: 'boot',
  only: `packets-${link}`,
  cases: new RegExp(`^packets ${link}: cold with trace`),
}));

export const BARS: readonly Bar[] = [
  ...playedBars,
  ...bootBars,
  ...packetBars,
  { bar: 'cached on disk, not in memory', bench: 'boot', only: 'disk', cases: /^cached, not in memory/ },
  ...LINKS.map((link): Bar => ({
    bar: `a guest's read beside others, ${link}`,
    bench: 'demand',
    only: link,
    cases: new RegExp(`^${link}: beside .*p99$`),
  })),
  { bar: 'what a new version inherits', bench: 'inherit', cases: /gain by file/ },
  { bar: 'a storm', bench: 'storm', cases: /./ },
  { bar: 'background on a line that swings', bench: 'swing', cases: /./ },
  { bar: 'a cached disk over NBD', bench: 'nbd', cases: /./ },
];

/** One row for each case that has a target; one that misses where a bar was not measured. */
export const barRows = (bars: readonly Bar[], results: readonly BenchResult[]): BenchCase[] =>
  bars.flatMap(({ bar, bench, only, cases }): BenchCase[] => {
    const judged = newest(results, bench).filter((row) => row.pass !== undefined && cases.test(row.case));
    if (judged.length > 0) return judged.map((row) => ({ ...row, case: `${bar} | ${row.case}` }));
    const words = only === undefined ? '' : ` --only ${only}`;
    const note = `not measured: npm run bench -- ${bench}${words} --json DIR/NAME.json`;
    return [{ case: bar, value: Number.NaN, unit: '', target: 'measured', pass: false, note }];
  });

/** The cases of a benchmark, of several runs the last that has each; its date and commit beside it. */
const newest = (results: readonly BenchResult[], bench: string): BenchCase[] => {
  const found = new Map<string, BenchCase>();
  const inOrder = results
    .filter((result) => result.bench === bench)
    .sort((one, other) => (one.at ?? '').localeCompare(other.at ?? ''));
  for (const { cases, at, commit } of inOrder)
    for (const row of cases) {
      const when = [at?.slice(0, 10), commit].filter((part) => part !== undefined).join(', ');
      found.set(row.case, {
        ...row,
        note: [when, row.note].filter((part) => part !== undefined && part !== '').join('; '),
      });
    }
  return [...found.values()];
};
