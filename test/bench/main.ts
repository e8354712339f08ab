/**
 * `npm run bench -- NAME [--json FILE] [--check] [--quick]`: runs one benchmark and prints its table. With --json also
 * a file, with --check exit 1 when a case misses its target.
 */
import { writeFile } from 'node:fs/promises';
import type { BenchOptions, BenchResult } from './bench-result.js';

const BENCHES: Readonly<Record<string, () => Promise<{ run: (options: BenchOptions) => Promise<BenchResult> }>>> = {
  boot: () => import('./boot/bench.js'),
  cache: () => import('./cache/bench.js'),
  nbd: () => import('./nbd/bench.js'),
  publish: () => import('./publish/bench.js'),
};

const words = process.argv.slice(2);
const flag = (name: string): boolean => words.includes(name);
const jsonAt = words.indexOf('--json');
const jsonFile = jsonAt >= 0 ? words[jsonAt + 1] : undefined;
const name = words.find((word, at) => !word.startsWith('--') && (jsonAt < 0 || at !== jsonAt + 1));
const load = name === undefined ? undefined : BENCHES[name];
if (load === undefined || (jsonAt >= 0 && jsonFile === undefined)) {
  console.error(`usage: npm run bench -- ${Object.keys(BENCHES).join('|')} [--json FILE] [--check] [--quick]`);
  process.exit(2);
}

const result = await (await load()).run({ quick: flag('--quick'), log: (line) => console.error(`bench: ${line}`) });
console.log(`${result.bench} on ${result.machine}`);
for (const row of result.cases) {
  const verdict = row.pass === undefined ? '    ' : row.pass ? 'ok  ' : 'MISS';
  const target = row.target === '' ? '' : ` (target ${row.target})`;
  console.log(
    `${verdict} ${row.case.padEnd(52)} ${row.value.toPrecision(4).padStart(9)} ${row.unit}${target}${row.note === undefined ? '' : `  ${row.note}`}`,
  );
}
if (jsonFile !== undefined) await writeFile(jsonFile, `${JSON.stringify(result, null, 2)}\n`);
if (flag('--check') && result.cases.some((row) => row.pass === false)) process.exit(1);
