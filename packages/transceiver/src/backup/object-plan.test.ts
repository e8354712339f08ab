import { describe, expect, it } from 'vitest';
import { chooseObjects } from './object-plan.js';

const live = (...bytes: readonly number[]): { number: number; liveBytes: number }[] =>
  bytes.map((liveBytes, at) => ({ number: at + 1, liveBytes }));

describe('which objects stay listed', () => {
  it('all that live, when they are not too many; the dead go', () => {
    expect(chooseObjects(live(5, 0, 7), { listedMax: 3, left: 2 })).toEqual({ kept: [1, 3], givenUp: [] });
  });

  it('of too many the smallest are given up, until so many are left', () => {
    expect(chooseObjects(live(9, 1, 8, 0, 2, 7), { listedMax: 4, left: 3 })).toEqual({
      kept: [1, 3, 6],
      givenUp: [2, 5],
    });
  });

  it('of equal ones the oldest', () => {
    expect(chooseObjects(live(1, 1, 1), { listedMax: 2, left: 1 })).toEqual({ kept: [3], givenUp: [1, 2] });
  });
});
