/**
/**
 * `npm run bench -- NAME [--json FILE] [--check] [--quick] [--only PART] [--from DIR]`: runs one benchmark and prints its table. With
 * --json also a file, with --check exit 1 when a case misses its target, with --only a part of it (the benchmark says which there are); --from is for `links`.
 * The figures of the paper leave their JSON and picture in docs/results when no file is named, but not those of --quick.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../support/child.js';
import { ROOT } from '../support/paths.js';
import type { Bench } from './bench-result.js';

const BENCHES: Readonly<Record<string, () => Promise<Bench>>> = {
  backup: () => import('./backup/bench.js'),
  boot: () => import('./boot/bench.js'),
  cache: () => import('./cache/bench.js'),
  commit: () => import('./commit/bench.js'),
  demand: () => import('./demand/bench.js'),
  dirty: () => import('./dirty/bench.js'),
  'figure-2': () => import('./figures/figure-2.js'),
  'figure-3': () => import('./figures/figure-3.js'),
  'figure-4': () => import('./figures/figure-4.js'),
  'figure-5': () => import('./figures/figure-5.js'),
  'figure-6': () => import('./figures/figure-6.js'),
  'figure-7': () => import('./figures/figure-7.js'),
  inherit: () => import('./inherit/bench.js'),
  links: async () => (await import('./links/bench.js')).linksBench(BENCHES),
  nbd: () => import('./nbd/bench.js'),
  publish: () => import('./publish/bench.js'),
  restore: () => import('./restore/bench.js'),
  storm: () => import('./storm/bench.js'),
  swing: () => import('./swing/bench.js'),
  trace: () => import('./trace-player/bench.js'),
};

const words = process.argv.slice(2);
const flag = (name: string): boolean => words.includes(name);
const WITH_VALUE = ['--json', '--only', '--from'];
const valueOf = (name: string): string | undefined => {
  const at = words.indexOf(name);
  return at < 0 ? undefined : words[at + 1];
};
const jsonFile = valueOf('--json');
const only = valueOf('--only');
const from = valueOf('--from');
const name = words.find((word, at) => !word.startsWith('--') && !WITH_VALUE.includes(words[at - 1] ?? ''));
const load = name === undefined ? undefined : BENCHES[name];
if (load === undefined || WITH_VALUE.some((each) => flag(each) && valueOf(each) === undefined)) {
  console.error(
    `usage: npm run bench -- ${Object.keys(BENCHES).join('|')} [--json FILE] [--check] [--quick] [--only PART] [--from DIR]`,
  );
  process.exit(2);
}

// By `exit`, so that what it has started ends with it (test/support/leftovers.ts).
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)
  process.once(signal, () => process.exit(code));

const result = await (
  await load()
).run({
  quick: flag('--quick'),
  ...(only === undefined ? {} : { only }),
  ...(from === undefined ? {} : { from }),
  ...(jsonFile === undefined ? {} : { jsonFile }),
  log: (line) => console.error(`bench: ${line}`),
});
console.log(`${result.bench} on ${result.machine}`);
for (const row of result.cases) {
  const verdict = row.pass === undefined ? '    ' : row.pass ? 'ok  ' : 'MISS';
  const target = row.target === '' ? '' : ` (target ${row.target})`;
  console.log(
    `${verdict} ${row.case.padEnd(52)} ${row.value.toPrecision(4).padStart(9)} ${row.unit}${target}${row.note === undefined ? '' : `  ${row.note}`}`,
  );
}
const { svg, ...measured } = result;
const kept = svg === undefined || flag('--quick') ? undefined : path.join(ROOT, 'docs/results', `${result.bench}.json`);
const file = jsonFile ?? kept;
if (file !== undefined) {
  const { stdout } = await run('git', ['-C', ROOT, 'rev-parse', '--short', 'HEAD']);
  const commit = stdout.trim() === '' ? {} : { commit: stdout.trim() };
  const written = { ...measured, at: new Date().toISOString(), ...commit };
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, `${JSON.stringify(written, null, 2)}\n`);
  if (svg !== undefined) await writeFile(`${file.replace(/\.json$/, '')}.svg`, svg);
}
if (flag('--check') && result.cases.some((row) => row.pass === false)) process.exit(1);
