/** The value that so large a share of them does not exceed (nearest rank); `share` above 0, up to 1. */
export const quantile = (values: readonly number[], share: number): number => {
  const sorted = [...values].sort((a, b) => a - b);
  const found = sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)];
  if (found === undefined) throw new RangeError('quantile of nothing');
  return found;
};
