import { expect, test } from 'vitest';
import { Random } from '../simulation/random.js';
import { killPoints, VICTIMS, type KillPoint } from './kill-plan.js';

const take = (seed: number, count: number): KillPoint[] => {
  const points = killPoints(new Random(seed));
  return Array.from({ length: count }, () => points.next().value);
};

test('the same seed gives the same kills, another seed others', () => {
  expect(take(7, 100)).toEqual(take(7, 100));
  expect(take(7, 100)).not.toEqual(take(8, 100));
});

test('each process is killed in at least a sixth of 50 points, whatever the seed, and each pair occurs', () => {
  const pairs = new Set<string>();
  for (let seed = 0; seed < 200; seed += 1) {
    const points = take(seed, 50);
    for (const victim of VICTIMS)
      expect(points.filter(({ victims }) => victims.includes(victim)).length).toBeGreaterThanOrEqual(50 / 6);
    for (const { victims } of points) if (victims.length === 2) pairs.add([...victims].sort().join());
  }
  expect(pairs.size).toBe(6);
});

test('pauses are spread from nothing to two and a half seconds', () => {
  const pauses = take(1, 1_000).map(({ afterMs }) => afterMs);
  expect(Math.min(...pauses)).toBeLessThan(50);
  expect(Math.max(...pauses)).toBeGreaterThan(2_400);
  expect(Math.max(...pauses)).toBeLessThan(2_500);
});
