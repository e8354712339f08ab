/** The distribution of values as the corners of its line. A pure function. */
import type { Point } from '../svg.js';

/** From (0, 0) to (1, 1): x is a value's part of `most`, y the share of the values that are at most so large. */
export const cdfLine = (values: readonly number[], most: number): Point[] => {
  const sorted = [...values].sort((one, other) => one - other);
  const points: Point[] = [[0, 0]];
  sorted.forEach((value, index) => {
    points.push([value / most, index / sorted.length], [value / most, (index + 1) / sorted.length]);
  });
  points.push([1, 1]);
  return points;
};
