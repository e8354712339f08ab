import { describe, expect, it } from 'vitest';
import type { LineSample } from '../../support/swinging-link.js';
import { OTHER, OURS, rateBetween, rates, schedule, secondsUntil } from './phases.js';

/** Four a second; ours 1,000 bytes a second, from second 5 on the other 2,000. */
const samples: LineSample[] = Array.from({ length: 41 }, (_, at) => ({
  atMs: at * 250,
  bitsPerSecond: 8_000,
  bytes: [at * 250, Math.max(0, at - 20) * 500],
}));
const phase = { bitsPerSecond: 8_000, isShared: true, beganMs: 4_000, endedMs: 9_000 };

describe('phases of the swing', () => {
  it('go from the middle up, down and up again, each capacity shared between two times alone', () => {
    const phases = schedule(2e6, 50e6);
    expect(phases.map(({ bitsPerSecond }) => bitsPerSecond / 1e6)).toEqual([10, 10, 10, 50, 50, 50, 2, 2, 2, 50, 10]);
    expect(phases.flatMap(({ isShared }, at) => (isShared ? [at] : []))).toEqual([1, 4, 7]);
  });

  it('have the mean rates of what arrived in them', () => {
    expect(rateBetween(samples, OURS, 1_000, 3_000)).toBe(8_000);
    expect(rateBetween(samples, OTHER, 4_000, 6_000)).toBe(8_000);
    expect(rateBetween(samples, OURS, 1_010, 1_100)).toBeNaN();
    expect(rates(samples, OTHER, 1_000).at(-1)).toEqual({ atMs: 10_000, bitsPerSecond: 16_000 });
  });

  it('say how long a port took to reach a rate over a whole second', () => {
    expect(secondsUntil(samples, phase, OTHER, (rate) => rate >= 16_000)).toBe(2);
    expect(secondsUntil(samples, phase, OURS, (rate) => rate < 1)).toBe(5);
  });
});
