/**
 * `npm run soak [-- --part NAME]… [--minutes N] [--seed N] [--list] [--fresh]`: the long versions of the tests.
 *
 * Each part (soak-plan.ts) is bounded by its own time, or by `--minutes` for each; no run is begun after that, and one that is
 * under way is not cut off. Resumable: build/soak/PART.json keeps what was done and which seeds failed; those come first the next
 * time. A complete part is left out until `--fresh` forgets its state. `--seed` runs that one seed. Exit 1 when a run failed,
 * now or before without having passed since.
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { run } from '../support/child.js';
import { BUILD, ROOT } from '../support/paths.js';
import {
  afterRun,
  isComplete,
  nextRun,
  NO_STATE,
  SOAK_PARTS,
  type SoakPart,
  type SoakRun,
  type SoakState,
} from './soak-plan.js';

const FOLDER = path.join(BUILD, 'soak');
/** A run that hangs is a failure: each test has its own, shorter time. */
const RUN_TIMEOUT_MS = 4 * 3_600_000;

const stateFile = (part: SoakPart): string => path.join(FOLDER, `${part.name}.json`);

const load = async (part: SoakPart): Promise<SoakState> => {
  let text: string;
  try {
    text = await readFile(stateFile(part), 'utf8');
  } catch {
    return NO_STATE;
  }
  return JSON.parse(text) as SoakState;
};

/** Renamed into place, so that an interrupted soak resumes. */
const save = async (part: SoakPart, state: SoakState): Promise<void> => {
  await writeFile(`${stateFile(part)}.new`, `${JSON.stringify(state)}\n`);
  await rename(`${stateFile(part)}.new`, stateFile(part));
};

/** Each run's whole output is kept beside the state. */
const perform = async (part: SoakPart, { seed, units }: SoakRun): Promise<boolean> => {
  const name = `${part.name}-${seed}`;
  const result = await run('npx', ['vitest', 'run', ...part.paths], {
    cwd: ROOT,
    env: {
      ...process.env,
      NO_COLOR: '1',
      KILLS_REPORT: path.join(FOLDER, `${name}.report.json`),
      ...part.environment(seed, units),
    },
    timeoutMs: RUN_TIMEOUT_MS,
  });
  const output = `${result.stdout}\n${result.stderr}`;
  await writeFile(path.join(FOLDER, `${name}.log`), output);
  if (result.code !== 0) console.log(output.slice(-8_000));
  return result.code === 0;
};

const describe = (part: SoakPart, state: SoakState): string => {
  const goal = part.goal === null ? '' : ` of ${part.goal}`;
  const failing = state.failed.map(({ seed }) => seed).join(', ');
  return `${part.name.padEnd(14)} ${state.done}${goal} ${part.unit}${isComplete(part, state) ? ', complete' : ''}${failing === '' ? '' : `; failing seeds: ${failing}`}`;
};

/** Runs the part until its time is over or nothing is left; gives the state. */
const soak = async (part: SoakPart, minutes: number, onlySeed: number | undefined): Promise<SoakState> => {
  let state = await load(part);
  const deadline = performance.now() + minutes * 60_000;
  const tried = new Set<number>();
  while (performance.now() < deadline) {
    const secondsLeft = (deadline - performance.now()) / 1_000;
    const next = nextRun(part, onlySeed === undefined ? state : { ...NO_STATE, nextSeed: onlySeed }, {
      secondsLeft,
      tried,
    });
    if (next === undefined) break;
    console.log(`${part.name}: ${next.units} ${part.unit}, seed ${next.seed} …`);
    const beganAt = performance.now();
    const passed = await perform(part, next);
    if (!passed) tried.add(next.seed);
    state = afterRun(state, next, passed);
    await save(part, state);
    const seconds = Math.round((performance.now() - beganAt) / 1_000);
    console.log(
      `${part.name}: seed ${next.seed} ${passed ? 'passed' : 'FAILED'} after ${seconds} s; ${describe(part, state)}`,
    );
    if (onlySeed !== undefined) break;
  }
  return state;
};

const { values } = parseArgs({
  options: {
    part: { type: 'string', multiple: true, default: [] },
    minutes: { type: 'string' },
    seed: { type: 'string' },
    list: { type: 'boolean', default: false },
    fresh: { type: 'boolean', default: false },
  },
});
const names = new Set(SOAK_PARTS.map(({ name }) => name));
for (const name of values.part)
  if (!names.has(name)) throw new Error(`no part ${name}; there are ${[...names].join(', ')}`);
const positive = (text: string | undefined, what: string): number | undefined => {
  if (text === undefined) return undefined;
  if (!(Number(text) > 0)) throw new Error(`--${what} wants a number above 0`);
  return Number(text);
};
const minutes = positive(values.minutes, 'minutes');
const seed = positive(values.seed, 'seed');
if (seed !== undefined && values.part.length !== 1) throw new Error('--seed wants one --part');

await mkdir(FOLDER, { recursive: true });
const parts = SOAK_PARTS.filter(({ name }) => values.part.length === 0 || values.part.includes(name));
if (values.list) {
  for (const part of parts)
    console.log(`${describe(part, await load(part))}\n               ${part.what} (${part.minutes} min)`);
} else {
  const lines: string[] = [];
  for (const part of parts) {
    if (values.fresh) {
      await rm(stateFile(part), { force: true });
      if (part.ownState !== undefined) await rm(path.join(BUILD, part.ownState), { force: true });
    }
    const state = await soak(part, minutes ?? part.minutes, seed);
    lines.push(describe(part, state));
    if (state.failed.length > 0) process.exitCode = 1;
  }
  console.log(`\nsoak:\n${lines.join('\n')}`);
}
