import { describe, expect, it } from 'vitest';
import { patienceAfter, wholeLimitMs } from './quiet-limit.js';

const under = (patience: number, tookMs: number) => ({ patience, wholeMs: wholeLimitMs(2_000, patience), tookMs });
const givenUp = (patience: number) => under(patience, Number.POSITIVE_INFINITY);

describe('the patience with answers that trickle', () => {
  it('an answer on a line of which nothing is known may take 20 s', () => {
    expect(wholeLimitMs(2_000, 1)).toBe(20_000);
  });

  it('doubles once for all answers that were given up together', () => {
    let patience = 1;
    for (let answer = 0; answer < 16; answer += 1) patience = patienceAfter(patience, givenUp(1));
    expect(patience).toBe(2);
  });

  it('grows until a line of 2 KB/s brings sixteen blocks of 64 KiB, and stays there while it needs them', () => {
    const neededMs = (16 * 65_536 * 1000) / 2_000;
    let patience = 1;
    let attempts = 0;
    while (wholeLimitMs(2_000, patience) < neededMs) {
      patience = patienceAfter(patience, givenUp(patience));
      attempts += 1;
    }
    expect(attempts).toBeLessThanOrEqual(5);
    expect(patienceAfter(patience, under(patience, neededMs))).toBe(patience);
  });

  it('comes back when answers are fast again, and never below the beginning or above its bound', () => {
    let patience = 8;
    for (let answer = 0; answer < 10; answer += 1) patience = patienceAfter(patience, under(patience, 30));
    expect(patience).toBe(1);
    for (let answer = 0; answer < 10; answer += 1) patience = patienceAfter(patience, givenUp(patience));
    expect(patience).toBe(32);
  });
});
