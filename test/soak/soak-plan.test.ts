import { expect, test } from 'vitest';
import { afterRun, isComplete, nextRun, NO_STATE, SOAK_PARTS, type SoakPart, type SoakState } from './soak-plan.js';

const partOf = (name: string): SoakPart => {
  const part = SOAK_PARTS.find((each) => each.name === name);
  if (part === undefined) throw new Error(`no part ${name}`);
  return part;
};
const kills = partOf('kills');
const secondsLeft = 3_600;

test('every part has its own name, a share of the time, and says its units and its seed in its environment', () => {
  expect(new Set(SOAK_PARTS.map(({ name }) => name)).size).toBe(SOAK_PARTS.length);
  for (const part of SOAK_PARTS) {
    expect(part.minutes).toBeGreaterThan(0);
    const run = nextRun(part, NO_STATE, { secondsLeft });
    expect(run?.seed).toBe(1);
    expect(Object.keys(part.environment(1, run?.units ?? 0)).length).toBeGreaterThan(0);
  }
  expect(kills.environment(7, 100)).toEqual({ KILLS: '100', KILLS_SEED: '7' });
});

test('500 kills are five runs with a seed each, and then the part is complete', () => {
  let state = NO_STATE;
  const seeds: number[] = [];
  for (let run = nextRun(kills, state, { secondsLeft }); run !== undefined;) {
    seeds.push(run.seed);
    expect(run.units).toBe(100);
    state = afterRun(state, run, true);
    run = nextRun(kills, state, { secondsLeft });
  }
  expect(seeds).toEqual([1, 2, 3, 4, 5]);
  expect(isComplete(kills, state)).toBe(true);
});

test('the last run has only the units that are left', () => {
  expect(nextRun(kills, { ...NO_STATE, done: 460 }, { secondsLeft })?.units).toBe(40);
});

test('a failing seed is run first the next time, with the units it had, and is forgotten when it passes', () => {
  const failed = afterRun(NO_STATE, { seed: 1, units: 100 }, false);
  expect(failed).toEqual({ nextSeed: 2, done: 0, failed: [{ seed: 1, units: 100 }] });
  expect(isComplete(kills, { ...failed, done: 500 })).toBe(false);
  expect(nextRun(kills, { ...failed, done: 500 }, { secondsLeft })).toEqual({ seed: 1, units: 100 });
  const again = afterRun(failed, { seed: 1, units: 100 }, true);
  expect(again).toEqual({ nextSeed: 2, done: 100, failed: [] });
});

test('a seed that failed again in this call gives way to new ones', () => {
  const state: SoakState = { nextSeed: 4, done: 100, failed: [{ seed: 2, units: 100 }] };
  expect(nextRun(kills, state, { secondsLeft, tried: new Set([2]) })?.seed).toBe(4);
});

test('parts that are measured in seconds take the time that is left, and add up over calls', () => {
  const integrity = partOf('integrity');
  expect(nextRun(integrity, NO_STATE, { secondsLeft: 1_200 })?.units).toBe(1_200);
  const state = afterRun(NO_STATE, { seed: 1, units: 1_200 }, true);
  expect(nextRun(integrity, state, { secondsLeft: 9_999 })?.units).toBe(2_400);
  expect(nextRun(integrity, state, { secondsLeft: 3 })?.units).toBe(60);
});

test('runs of the simulations do not overlap in their seeds', () => {
  const first = (seed: number): number => Number(partOf('simulation').environment(seed, 1)['SIMULATION_FIRST']);
  expect(first(2) - first(1)).toBeGreaterThanOrEqual(1_000_000);
});
