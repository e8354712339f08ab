/**
 * Which request may go onto the line next, as a function of what is outstanding. Each class has its own bound, and what is
 * not demand shares one that fits the line: one round trip's worth of it and one chunk more, so that the line stays full
 * and a demand read finds little in front of it. (Rates that adapt to how fast the answers come, halving and doubling,
 * belong here and nowhere else.)
 */
import { FETCH_CLASSES, type FetchClass } from '../block-store.js';

export type PerClass = Readonly<Record<FetchClass, number>>;

export const OUTSTANDING_MAX: PerClass = { demand: 16, trace: 8, hoard: 4, background: 2 };
/** All classes but demand together, whatever the line. */
export const BULK_OUTSTANDING_MAX = 8;
const BULK_OUTSTANDING_MIN = 2;
/** While nothing is known of the line. */
const BULK_OUTSTANDING_UNKNOWN = 4;
/** The rate that was seen is at most what the bound allowed: asking for a little more finds out whether the line has more. */
const PROBE_GAIN = 1.25;
/** Hoard and background wait while so many better ones are outstanding. */
const BETTER_OUTSTANDING_MAX = 2;

export type Line = {
  /** Shortest time to the first byte that was seen; 0 when nothing is known. */
  readonly roundTripMs: number;
  /** Fastest that was seen lately; 0 when nothing is known. */
  readonly bytesPerSecond: number;
  /** Mean length of a chunk. */
  readonly chunkBytes: number;
};

/** How many requests of all classes but demand may be outstanding on this line. */
export const bulkOutstandingMax = ({ roundTripMs, bytesPerSecond, chunkBytes }: Line): number => {
  if (roundTripMs <= 0 || bytesPerSecond <= 0 || chunkBytes <= 0) return BULK_OUTSTANDING_UNKNOWN;
  const roundTripChunks = (PROBE_GAIN * bytesPerSecond * roundTripMs) / 1000 / chunkBytes;
  return Math.max(BULK_OUTSTANDING_MIN, Math.min(BULK_OUTSTANDING_MAX, Math.ceil(roundTripChunks) + 1));
};

export const mayStart = (
  fetchClass: FetchClass,
  outstanding: PerClass,
  bulkMax: number = BULK_OUTSTANDING_MAX,
): boolean => {
  if (outstanding[fetchClass] >= OUTSTANDING_MAX[fetchClass]) return false;
  if (fetchClass === 'demand') return true;
  if (outstanding.trace + outstanding.hoard + outstanding.background >= bulkMax) return false;
  if (fetchClass === 'trace') return true;
  return outstanding.demand + outstanding.trace < BETTER_OUTSTANDING_MAX;
};

/** The class whose oldest request goes next; undefined when none may. */
export const nextClass = (
  queued: PerClass,
  outstanding: PerClass,
  bulkMax: number = BULK_OUTSTANDING_MAX,
): FetchClass | undefined => {
  for (const fetchClass of FETCH_CLASSES) {
    if (queued[fetchClass] > 0 && mayStart(fetchClass, outstanding, bulkMax)) return fetchClass;
  }
  return undefined;
};
