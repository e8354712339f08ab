import { describe, expect, test } from 'vitest';
import { hitRates, popularityOrder, rateAt, together } from './popularity.js';

const one = new Map([
  [1, 5],
  [2, 1],
  [3, 1],
]);
const two = new Map([
  [2, 1],
  [9, 2],
]);

describe('popularity', () => {
  test('blocks come by how often they were asked for, then by how many sessions asked, then by number', () => {
    expect(popularityOrder([one, two])).toEqual([1, 2, 9, 3]);
    expect(popularityOrder([two, one])).toEqual([1, 2, 9, 3]);
  });

  test('no sessions have no order', () => expect(popularityOrder([])).toEqual([]));

  test('sessions together have the sum of their accesses', () => {
    expect([...together([one, two])].sort()).toEqual([
      [1, 5],
      [2, 2],
      [3, 1],
      [9, 2],
    ]);
  });
});

describe('the hit rate', () => {
  test('begins at nothing, never falls, and is 1 when every block is there', () => {
    const all = together([one, two]);
    expect(hitRates(popularityOrder([one, two]), all)).toEqual([0, 0.5, 0.7, 0.9, 1]);
  });

  test('of a session that others did not foresee stays below 1', () => {
    expect(hitRates(popularityOrder([one]), two)).toEqual([0, 0, 1 / 3, 1 / 3]);
  });

  test('of no accesses is refused', () => expect(() => hitRates([1], new Map())).toThrow('no accesses'));

  test('no order of as many blocks hits more than that of popularity', () => {
    const all = together([one, two]);
    const best = hitRates(popularityOrder([one, two]), all);
    for (const order of [
      [2, 1, 3, 9],
      [9, 3, 2, 1],
      [1, 9, 3, 2],
    ])
      hitRates(order, all).forEach((rate, count) => expect(rate).toBeLessThanOrEqual(best[count] ?? 0));
  });

  test('at a share of the order is that of so many blocks', () => {
    expect(rateAt([0, 0.5, 0.7, 0.9, 1], 0.5)).toBe(0.7);
    expect(rateAt([0, 0.5], 1)).toBe(0.5);
    expect(rateAt([0, 0.5], 0)).toBe(0);
  });
});
