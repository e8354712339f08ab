/**
 * `npm run bench -- links [--from DIR]`: every bar of cold starts over slow lines (issue 5) in one table. With --from it collects the files that the
 * benchmarks have left with --json (docs/results); without, it runs them all, which takes hours.
 *
 * Parts for --only: benchmarks by name.
 */
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { describeMachine, type Bench, type BenchOptions, type BenchResult } from '../bench-result.js';
import { BARS, barRows, type Bar } from './bars.js';

const collected = async (folder: string): Promise<BenchResult[]> => {
  const found = await readdir(folder).catch((error: unknown) => {
    throw new Error(`--from ${folder} is not a folder that can be read`, { cause: error });
  });
  const names = found.filter((name) => name.endsWith('.json')).sort();
  if (names.length === 0)
    throw new Error(`${folder} has no .json files; make some with npm run bench -- NAME --json FILE`);
  return await Promise.all(
    names.map(async (name) => {
      const read = JSON.parse(await readFile(path.join(folder, name), 'utf8')) as Partial<BenchResult>;
      if (typeof read.bench !== 'string' || typeof read.machine !== 'string' || !Array.isArray(read.cases))
        throw new Error(
          `${path.join(folder, name)} is not what a benchmark leaves with --json; take it out of the folder`,
        );
      return read as BenchResult;
    }),
  );
};

/** Each benchmark and part once. */
const measured = async (
  bars: readonly Bar[],
  benches: Readonly<Record<string, () => Promise<Bench>>>,
  { from: _none, only: _all, jsonFile: _file, ...options }: BenchOptions,
): Promise<BenchResult[]> => {
  const runs = new Map(bars.map((bar) => [`${bar.bench} ${bar.only ?? ''}`, bar]));
  const results: BenchResult[] = [];
  for (const { bench, only } of runs.values()) {
    options.log(`links: ${bench}${only === undefined ? '' : `, ${only}`}`);
    const load = benches[bench];
    if (load === undefined) throw new Error(`there is no benchmark ${bench}`);
    const part = only === undefined ? {} : { only };
    results.push({ ...(await (await load()).run({ ...options, ...part })), at: new Date().toISOString() });
  }
  return results;
};

/** `benches`: by name, as the command line has them. */
export const linksBench = (benches: Readonly<Record<string, () => Promise<Bench>>>): Bench => ({
  run: async (options) => {
    const { only, from } = options;
    const bars = BARS.filter(({ bench }) => only === undefined || bench === only);
    if (bars.length === 0) throw new Error(`--only ${only ?? ''}: no bar is of that benchmark`);
    const results = from === undefined ? await measured(bars, benches, options) : await collected(from);
    return { bench: 'links', machine: describeMachine(), cases: barRows(bars, results) };
  },
});
