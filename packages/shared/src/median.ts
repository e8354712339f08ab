/** The lower one of two in the middle; 0 of none. */
export const median = (values: readonly number[]): number =>
  [...values].sort((one, other) => one - other)[(values.length - 1) >> 1] ?? 0;
