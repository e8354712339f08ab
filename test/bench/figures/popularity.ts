/** Which blocks of an appliance are used most, and what a cache that holds the first of them is worth. Pure functions. */

/** How often a session asked for each block, by block number. */
export type Accesses = ReadonlyMap<number, number>;

/** The blocks of all sessions, that which was asked for most often first; of equals that of more sessions, then the lower number. */
export const popularityOrder = (sessions: readonly Accesses[]): number[] => {
  const totals = new Map<number, { accesses: number; sessions: number }>();
  for (const session of sessions)
    for (const [block, count] of session) {
      const total = totals.get(block) ?? { accesses: 0, sessions: 0 };
      totals.set(block, { accesses: total.accesses + count, sessions: total.sessions + 1 });
    }
  return [...totals]
    .sort(([block, one], [other, two]) => two.accesses - one.accesses || two.sessions - one.sessions || block - other)
    .map(([block]) => block);
};

/**
 * The share of the accesses, 0 to 1, that hit a cache which holds the first so many blocks of `order` and gets no others: for no block,
 * the first one, the first two and so on, so it has one value more than `order`.
 */
export const hitRates = (order: readonly number[], accesses: Accesses): number[] => {
  const total = [...accesses.values()].reduce((sum, count) => sum + count, 0);
  if (total === 0) throw new RangeError('no accesses');
  const rates = [0];
  let hits = 0;
  for (const block of order) {
    hits += accesses.get(block) ?? 0;
    rates.push(hits / total);
  }
  return rates;
};

/** All sessions as one. */
export const together = (sessions: readonly Accesses[]): Accesses => {
  const sum = new Map<number, number>();
  for (const session of sessions) for (const [block, count] of session) sum.set(block, (sum.get(block) ?? 0) + count);
  return sum;
};

/** The rate with a share of the order in the cache: `rates` as hitRates gives them. */
export const rateAt = (rates: readonly number[], share: number): number =>
  rates[Math.min(rates.length - 1, Math.round(share * (rates.length - 1)))] ?? Number.NaN;
