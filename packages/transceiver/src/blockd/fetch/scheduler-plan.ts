/**
 * Which request may go onto the line next, as a function of what is outstanding. Simple numbers: each class has its own
 * bound, and what is not demand shares one, so that a demand read finds little in front of it. The rates that adapt to the
 * line (one round trip's worth of line, halving and doubling) belong here and nowhere else.
 */
import { FETCH_CLASSES, type FetchClass } from '../block-store.js';

export type PerClass = Readonly<Record<FetchClass, number>>;

export const OUTSTANDING_MAX: PerClass = { demand: 16, trace: 8, hoard: 4, background: 2 };
/** All classes but demand together. */
export const BULK_OUTSTANDING_MAX = 8;
/** Hoard and background wait while so many better ones are outstanding. */
const BETTER_OUTSTANDING_MAX = 2;

export const mayStart = (fetchClass: FetchClass, outstanding: PerClass): boolean => {
  if (outstanding[fetchClass] >= OUTSTANDING_MAX[fetchClass]) return false;
  if (fetchClass === 'demand') return true;
  if (outstanding.trace + outstanding.hoard + outstanding.background >= BULK_OUTSTANDING_MAX) return false;
  if (fetchClass === 'trace') return true;
  return outstanding.demand + outstanding.trace < BETTER_OUTSTANDING_MAX;
};

/** The class whose oldest request goes next; undefined when none may. */
export const nextClass = (queued: PerClass, outstanding: PerClass): FetchClass | undefined => {
  for (const fetchClass of FETCH_CLASSES) {
    if (queued[fetchClass] > 0 && mayStart(fetchClass, outstanding)) return fetchClass;
  }
  return undefined;
};
