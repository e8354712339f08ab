/**
 * Runs seeded histories as one vitest test. A failing seed is in the message, and
 * `SIMULATION_SEED=n npx vitest run --project simulation -t 'NAME'` replays that one history.
 * `SIMULATION_SCALE=x` runs x times as many (soak), `SIMULATION_FIRST=n` begins at another seed.
 */
import { it } from 'vitest';
import { Random } from './random.js';

const number = (name: string): number | undefined => {
  const text = process.env[name];
  if (text === undefined || text === '') return undefined;
  const value = Number(text);
  if (!Number.isFinite(value) || value < 0) throw new Error(`${name}=${text} is not a number`);
  return value;
};

/** A history takes less than a second; on a machine that is busy with everything else, some. More is a hang. */
const HISTORY_MS_MAX = 120_000;
/** Histories have their own bound; this one is for the test as a whole, a week: a timer takes at most 2^31 - 1 ms. */
const WHOLE_MS_MAX = 7 * 86_400_000;

const inTime = async <T>(history: Promise<T>): Promise<T> => {
  let timer: NodeJS.Timeout | undefined;
  const hang = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`the history hangs: ${HISTORY_MS_MAX} ms have passed`)), HISTORY_MS_MAX);
  });
  try {
    return await Promise.race([history, hang]);
  } finally {
    clearTimeout(timer);
  }
};

export type Tally = Readonly<Record<string, number>>;

/**
 * `history` throws when something that must hold does not; what it returns is counted and printed, so that a reader sees
 * that the histories did what they are for (cuts taken, faults injected, reads checked).
 */
export const simulate = (
  name: string,
  histories: number,
  history: (random: Random) => Promise<Tally>,
  atLeast: Tally = {},
): void => {
  const only = number('SIMULATION_SEED');
  const count = only === undefined ? Math.max(1, Math.round(histories * (number('SIMULATION_SCALE') ?? 1))) : 1;
  const first = only ?? number('SIMULATION_FIRST') ?? 1;
  it(`${name}: ${count} histories from seed ${first}`, { timeout: WHOLE_MS_MAX }, async () => {
    const sum = new Map<string, number>();
    for (let seed = first; seed < first + count; seed += 1) {
      try {
        for (const [key, value] of Object.entries(await inTime(history(new Random(seed)))))
          sum.set(key, (sum.get(key) ?? 0) + value);
      } catch (error) {
        throw new Error(
          `SIMULATION_SEED=${seed} (${name}): ${error instanceof Error ? error.message : String(error)}`,
          {
            cause: error,
          },
        );
      }
    }
    console.log(`${name}: ${count} histories: ${[...sum].map(([key, value]) => `${value} ${key}`).join(', ')}`);
    // `atLeast` is per history on average: a simulation that injects nothing proves nothing.
    if (only === undefined)
      for (const [key, value] of Object.entries(atLeast))
        if ((sum.get(key) ?? 0) < value * count)
          throw new Error(
            `${name}: only ${sum.get(key) ?? 0} ${key} in ${count} histories, at least ${value * count} were meant`,
          );
  });
};
