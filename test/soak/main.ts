/**
 * `npm run soak [-- --minutes N] [--seed N]`: the fault suites again and again with one seed after the other, until the
 * time is over (default 30 minutes). Resumable: build/soak.json keeps the next seed and what failed; a failing seed is
 * printed and is run first the next time. Exit 1 when a seed has failed.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { run } from '../support/child.js';
import { BUILD, ROOT } from '../support/paths.js';

/** Suites whose outcome depends on chance: on the seed, and on where a kill hits. */
const SUITES = ['test/faults', 'test/interop/nbd-crashes', 'test/blockd/cache-race', 'test/machine/machine-faults'];
const SUITE_TIMEOUT_MS = 1_800_000;

type State = { readonly nextSeed: number; readonly passed: number; readonly failedSeeds: readonly number[] };

const stateFile = path.join(BUILD, 'soak.json');
const { values } = parseArgs({ options: { minutes: { type: 'string', default: '30' }, seed: { type: 'string' } } });
const minutes = Number(values.minutes);
if (!(minutes > 0)) throw new Error('--minutes wants a number above 0');
const deadline = performance.now() + minutes * 60_000;

const load = async (): Promise<State> => {
  try {
    return JSON.parse(await readFile(stateFile, 'utf8')) as State;
  } catch {
    return { nextSeed: 1, passed: 0, failedSeeds: [] };
  }
};

const runSeed = async (seed: number): Promise<boolean> => {
  const result = await run('npx', ['vitest', 'run', '--project', 'integ', ...SUITES], {
    cwd: ROOT,
    env: { ...process.env, FAULT_SEED: String(seed), NO_COLOR: '1' },
    timeoutMs: SUITE_TIMEOUT_MS,
  });
  if (result.code !== 0)
    console.log(`seed ${seed} failed:\n${result.stdout.slice(-6000)}\n${result.stderr.slice(-2000)}`);
  return result.code === 0;
};

await mkdir(BUILD, { recursive: true });
let state = await load();
const wanted = values.seed === undefined ? [...state.failedSeeds] : [Number(values.seed)];
let failures = 0;
while (performance.now() < deadline) {
  const seed = wanted.shift() ?? state.nextSeed;
  const isGood = await runSeed(seed);
  failures += isGood ? 0 : 1;
  const others = state.failedSeeds.filter((each) => each !== seed);
  state = {
    nextSeed: Math.max(state.nextSeed, seed + 1),
    passed: state.passed + (isGood ? 1 : 0),
    failedSeeds: isGood ? others : [...others, seed],
  };
  await writeFile(stateFile, `${JSON.stringify(state)}\n`);
  console.log(
    `seed ${seed}: ${isGood ? 'passed' : 'FAILED'}; ${state.passed} seeds have passed, failing: ${state.failedSeeds.join(', ') || 'none'}`,
  );
  if (values.seed !== undefined) break;
}
process.exitCode = failures > 0 || state.failedSeeds.length > 0 ? 1 : 0;
