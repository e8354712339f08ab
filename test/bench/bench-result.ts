/**
 * What every benchmark gives back, and how pairs are judged. A benchmark compares two things in one run, in
 * interleaved pairs, because these machines are shared and noisy: the ratio of a pair means something, the seconds do not.
 */
import os from 'node:os';

export type BenchCase = {
  readonly case: string;
  readonly value: number;
  readonly unit: string;
  /** What it must reach, in words that a person reads: `>= 1.2`, `<= 0.05`; empty when the case only informs. */
  readonly target: string;
  /** Undefined when the case only informs. */
  readonly pass?: boolean;
  /** Beside the value: interval, absolute figures, conditions. */
  readonly note?: string;
};

export type BenchResult = {
  readonly bench: string;
  readonly machine: string;
  readonly cases: readonly BenchCase[];
  /** When it was measured, and of which commit; in files. */
  readonly at?: string;
  readonly commit?: string;
  /** How often each thing was measured. */
  readonly rounds?: number;
  /** What a picture was drawn from, when there is one. */
  readonly data?: unknown;
  /** The picture; beside the JSON, in a file of its own. A benchmark that has one keeps both in docs/results when no other file is named. */
  readonly svg?: string;
};

export type BenchOptions = {
  /** Fewer repetitions, for trying the benchmark itself; its figures are not to be quoted. */
  readonly quick: boolean;
  /** A part of the benchmark alone, where it has parts: those whose name contains this. */
  readonly only?: string;
  /** Where the result goes; a benchmark that draws puts its pictures beside it. */
  readonly jsonFile?: string;
  /** A folder of such files, of which `links` makes its table. */
  readonly from?: string;
  /** Says what it does; standard error by default. */
  readonly log: (line: string) => void;
};

export type Bench = { readonly run: (options: BenchOptions) => Promise<BenchResult> };

export const describeMachine = (): string => {
  const cpus = os.cpus();
  return `${cpus.length} x ${cpus[0]?.model ?? 'unknown'}, ${Math.round(os.totalmem() / 2 ** 30)} GiB, Linux ${os.release()}, Node ${process.versions.node}`;
};

export const median = (values: readonly number[]): number => {
  if (values.length === 0) throw new RangeError('median of nothing');
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
};

/** Runs `ours` and `theirs` in turn (the order flips each pair, so that drift favours neither) and returns all values. */
export const interleavedPairs = async (
  count: number,
  ours: (pair: number) => Promise<number>,
  theirs: (pair: number) => Promise<number>,
): Promise<{ ours: number[]; theirs: number[]; ratios: number[] }> => {
  const result = { ours: [] as number[], theirs: [] as number[], ratios: [] as number[] };
  for (let pair = 0; pair < count; pair += 1) {
    let a: number;
    let b: number;
    if (pair % 2 === 0) {
      a = await ours(pair);
      b = await theirs(pair);
    } else {
      b = await theirs(pair);
      a = await ours(pair);
    }
    result.ours.push(a);
    result.theirs.push(b);
    result.ratios.push(a / b);
  }
  return result;
};

/** `median (low–high)` of the values, for a note. */
export const interval = (values: readonly number[], digits = 2): string =>
  `${median(values).toFixed(digits)} (${Math.min(...values).toFixed(digits)}–${Math.max(...values).toFixed(digits)}, n=${values.length})`;

export const atLeast = (
  name: string,
  value: number,
  bound: number,
  rest: { readonly unit?: string; readonly note?: string } = {},
): BenchCase => ({
  case: name,
  value,
  unit: rest.unit ?? 'x',
  target: `>= ${bound}`,
  pass: value >= bound,
  ...(rest.note === undefined ? {} : { note: rest.note }),
});

export const atMost = (
  name: string,
  value: number,
  bound: number,
  rest: { readonly unit?: string; readonly note?: string } = {},
): BenchCase => ({
  case: name,
  value,
  unit: rest.unit ?? 'x',
  target: `<= ${bound}`,
  pass: value <= bound,
  ...(rest.note === undefined ? {} : { note: rest.note }),
});

export const informs = (name: string, value: number, unit: string, note?: string): BenchCase => ({
  case: name,
  value,
  unit,
  target: '',
  ...(note === undefined ? {} : { note }),
});
