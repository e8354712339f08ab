/** What `npm run soak` runs, and what comes next: pure functions over a state that is kept between calls. */

import { MOVES_WITH_GUESTS, ordersOf } from '../orders/moves.js';

export type SoakPart = {
  readonly name: string;
  readonly what: string;
  /** Path filters of vitest. */
  readonly paths: readonly string[];
  /** What is counted, and after how many the part is complete; null: never. */
  readonly unit: string;
  readonly goal: number | null;
  /** Units of one run, when so many seconds and so many units are left. At least 1. */
  readonly runUnits: (left: { readonly seconds: number; readonly units: number }) => number;
  readonly environment: (seed: number, units: number) => Readonly<Record<string, string>>;
  /** A file in build/ in which the suite itself remembers what has passed. */
  readonly ownState?: string;
  /** Its share of the time when nobody says how long. */
  readonly minutes: number;
};

const KILLS_PER_RUN = 100;
/** After so many the two homes begin anew. */
const ORDERS_PER_RUN = 19;
/** So many times the histories that `npm test` runs. */
const SIMULATION_SCALE = 10;
/** More than any simulation's histories of one run: runs do not overlap. */
const SIMULATION_SEEDS_PER_RUN = 1_000_000;

export const SOAK_PARTS: readonly SoakPart[] = [
  {
    name: 'kills',
    what: 'kill -9 of block daemon, agent, supervisor and server around a Debian guest with apt and fio',
    paths: ['test/kills/kills'],
    unit: 'kills',
    goal: 500,
    runUnits: ({ units }) => Math.min(KILLS_PER_RUN, units),
    environment: (seed, units) => ({ KILLS: String(units), KILLS_SEED: String(seed) }),
    minutes: 60,
  },
  {
    name: 'snapshot-kills',
    what: 'the same kills, and of the collector, around the snapshots of a tiny guest: seal, upload, commit, forget, thin, collect',
    paths: ['test/kills/snapshot-kills'],
    unit: 'kills',
    goal: 500,
    runUnits: ({ units }) => Math.min(KILLS_PER_RUN, units),
    environment: (seed, units) => ({ KILLS: String(units), KILLS_SEED: String(seed) }),
    minutes: 40,
  },
  {
    name: 'orders',
    what: 'two transceivers with one subscription and real guests: every order of four moves of the small model, each once',
    paths: ['test/orders/guest-orders'],
    unit: 'orders',
    goal: ordersOf(MOVES_WITH_GUESTS).length,
    runUnits: ({ units }) => Math.min(ORDERS_PER_RUN, units),
    environment: (seed, units) => ({ ORDERS: String(units), ORDERS_FIRST: String((seed - 1) * ORDERS_PER_RUN) }),
    minutes: 60,
  },
  {
    name: 'outages',
    what: 'the link goes down in every phase of a boot, on every bus, with both firmwares, in both ways',
    paths: ['test/outages/outages.integ'],
    unit: 'matrices',
    goal: 1,
    runUnits: () => 1,
    environment: () => ({ OUTAGES: 'full', PROMISES: 'strict' }),
    ownState: 'outages.json',
    minutes: 120,
  },
  {
    name: 'integrity',
    what: 'fio verify while bits flip, the server lies and the cache evicts',
    paths: ['test/integrity'],
    unit: 'seconds',
    goal: 3_600,
    runUnits: ({ seconds, units }) => Math.max(60, Math.min(units, Math.floor(seconds))),
    environment: (seed, units) => ({ INTEGRITY_SECONDS: String(units), FAULT_SEED: String(seed) }),
    minutes: 62,
  },
  {
    name: 'collector',
    what: 'publishers, readers and the garbage collector race',
    paths: ['test/faults/collector-race'],
    unit: 'seconds',
    goal: 600,
    runUnits: ({ seconds, units }) => Math.max(60, Math.min(units, Math.floor(seconds))),
    environment: (seed, units) => ({ COLLECTOR_RACE_SECONDS: String(units), FAULT_SEED: String(seed) }),
    minutes: 12,
  },
  {
    name: 'simulation',
    what: `simulated power cuts, faults and races, ${SIMULATION_SCALE} times as many histories as npm test`,
    paths: ['.sim.ts'],
    unit: 'runs',
    goal: null,
    runUnits: () => 1,
    environment: (seed) => ({
      SIMULATION_SCALE: String(SIMULATION_SCALE),
      SIMULATION_FIRST: String(seed * SIMULATION_SEEDS_PER_RUN),
    }),
    minutes: 30,
  },
  {
    name: 'faults',
    what: 'the fault suites of npm test, whose outcome depends on where a kill or a race hits',
    paths: ['test/faults', 'test/interop/nbd-crashes', 'test/blockd/cache-race', 'test/machine/machine-faults'],
    unit: 'runs',
    goal: null,
    runUnits: () => 1,
    environment: (seed) => ({ FAULT_SEED: String(seed) }),
    minutes: 30,
  },
];

/** Kept as build/soak/NAME.json. */
export type SoakState = {
  readonly nextSeed: number;
  /** Units of runs that passed. */
  readonly done: number;
  /** With the units that they had: a seed means nothing without them. */
  readonly failed: readonly { readonly seed: number; readonly units: number }[];
};
export const NO_STATE: SoakState = { nextSeed: 1, done: 0, failed: [] };

export type SoakRun = { readonly seed: number; readonly units: number };

/** Failing seeds first; then new ones until the goal is reached. Undefined: nothing is left to do. `tried`: failed again in this call. */
export const nextRun = (
  part: SoakPart,
  state: SoakState,
  options: { readonly secondsLeft: number; readonly tried?: ReadonlySet<number> },
): SoakRun | undefined => {
  const again = state.failed.find(({ seed }) => options.tried?.has(seed) !== true);
  if (again !== undefined) return again;
  const left = part.goal === null ? Number.MAX_SAFE_INTEGER : part.goal - state.done;
  if (left <= 0) return undefined;
  return { seed: state.nextSeed, units: part.runUnits({ seconds: options.secondsLeft, units: left }) };
};

/** The state after a run. */
export const afterRun = (state: SoakState, run: SoakRun, passed: boolean): SoakState => {
  const others = state.failed.filter(({ seed }) => seed !== run.seed);
  return {
    nextSeed: Math.max(state.nextSeed, run.seed + 1),
    done: state.done + (passed ? run.units : 0),
    failed: passed ? others : [...others, run],
  };
};

export const isComplete = (part: SoakPart, state: SoakState): boolean =>
  state.failed.length === 0 && part.goal !== null && state.done >= part.goal;
