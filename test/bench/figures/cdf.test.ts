import { expect, test } from 'vitest';
import { cdfLine } from './cdf.js';

test('a distribution is a stair with a step at each value, as high as the share of values there', () => {
  expect(cdfLine([4, 1, 1, 2], 8)).toEqual([
    [0, 0],
    [1 / 8, 0],
    [1 / 8, 0.25],
    [1 / 8, 0.25],
    [1 / 8, 0.5],
    [2 / 8, 0.5],
    [2 / 8, 0.75],
    [4 / 8, 0.75],
    [4 / 8, 1],
    [1, 1],
  ]);
});

test('it never falls, whatever the order of the values', () => {
  const line = cdfLine([9, 3, 7, 3, 5], 10);
  for (const [at, [x, y]] of line.entries()) {
    const [beforeX = 0, beforeY = 0] = line[at - 1] ?? [];
    expect(x).toBeGreaterThanOrEqual(beforeX);
    expect(y).toBeGreaterThanOrEqual(beforeY);
  }
});
