import { expect, it } from 'vitest';
import { quantile } from './quantile.js';

it('a quantile is the value that so large a share does not exceed', () => {
  const values = Array.from({ length: 100 }, (_, at) => 100 - at);
  expect([0.5, 0.99, 1].map((share) => quantile(values, share))).toEqual([50, 99, 100]);
  expect(quantile([7], 0.99)).toBe(7);
  expect(() => quantile([], 0.5)).toThrow('quantile of nothing');
});
