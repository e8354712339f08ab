/**
 * Whom to kill and after how long, from a seed: a pure sequence. It replays the order and the intended pauses; where in the
 * guest's work a kill hits is up to the machine that runs it.
 */
import type { Random } from '../simulation/random.js';

export const VICTIMS = ['blockd', 'agent', 'supervisor', 'server'] as const;
export type Victim = (typeof VICTIMS)[number];

export type KillPoint = {
  /** One, or two at once. */
  readonly victims: readonly Victim[];
  /** From when the guest was seen to go on after the kill before. */
  readonly afterMs: number;
};

const AFTER_MS_MAX = 2_500;

/**
 * Without end. In each five points every process is killed alone once, in a random order, and one pair at once: so each
 * is hit by at least a fifth of the points, however few there are.
 */
export function* killPoints(random: Random, { afterMsMax = AFTER_MS_MAX } = {}): Generator<KillPoint, never> {
  for (;;) {
    const singles = VICTIMS.map((victim): readonly Victim[] => [victim]);
    const pair = random.shuffled(VICTIMS).slice(0, 2);
    for (const victims of random.shuffled([...singles, pair])) yield { victims, afterMs: random.int(afterMsMax) };
  }
}
