/**
 * Which request may go onto the line next, as a function of what is outstanding. Each class has its own bound, and what is
 * not demand shares one that fits the line: the next goes out when less than one round trip's worth of it is still to come, so that the line stays
 * full and a demand read finds one chunk more than that in front of it at most. It is counted in bytes: the chunks of a boot's beginning are five times as
 * long as those of its end. What nobody waits for has a rate of its own beside that (background-rate.ts), and the line only while no guest wants it.
 */
import { FETCH_CLASSES, type FetchClass } from '../block-store.js';

export type PerClass = Readonly<Record<FetchClass, number>>;

/** Requests, of bytes see below. */
export const OUTSTANDING_MAX: PerClass = { demand: 16, trace: 32, hoard: 16, background: 32 };
/** All classes but demand together, whatever the line: as many connections as there are for them. */
export const BULK_OUTSTANDING_MAX = 32;
/** While nothing is known of the line. */
const BULK_BYTES_UNKNOWN = 128 << 10;
/** While nothing is known of chunks: half of a block of 64 KiB. */
export const CHUNK_BYTES_UNKNOWN = 32 << 10;
/** The rate that was seen is at most what the bound allowed: asking for a little more finds out whether the line has more. */
const PROBE_GAIN = 1.25;
/** Between an answer and the next request lies what we take ourselves, which the shortest round trip does not tell: without it a lan stands half idle. */
const OWN_MS = 2;
/** Hoard waits while so many better ones are outstanding. */
const BETTER_OUTSTANDING_MAX = 2;

export type Line = {
  /** Shortest time to the first byte that was seen; 0 when nothing is known. */
  readonly roundTripMs: number;
  /** Fastest that was seen lately; 0 when nothing is known. */
  readonly bytesPerSecond: number;
  /** Mean length of the chunks that came last; 0 when nothing is known. */
  readonly chunkBytes: number;
  /** So much may be outstanding at the line's beginning, whatever its rate seems to be (slow-start.ts). */
  readonly slowStartBytes: number;
};
export const UNKNOWN_LINE: Line = { roundTripMs: 0, bytesPerSecond: 0, chunkBytes: 0, slowStartBytes: 0 };

/** What is outstanding of all classes but demand, and from how much on nothing is added. */
export type Bulk = {
  readonly bytes: number;
  readonly bytesMax: number;
  /** By its rate another request of the class background may go out. */
  readonly isBackgroundDue: boolean;
};

/** From how many outstanding bytes of all classes but demand on nothing is added on this line. */
export const bulkBytesMax = ({ roundTripMs, bytesPerSecond, slowStartBytes }: Line): number => {
  if (roundTripMs <= 0 || bytesPerSecond <= 0) return BULK_BYTES_UNKNOWN;
  return Math.max(slowStartBytes, (PROBE_GAIN * bytesPerSecond * (roundTripMs + OWN_MS)) / 1000);
};

/** A part of an object that is read ahead: a demand read that comes while it is on the line waits behind so much of it. */
const PART_MS = 20;
const PART_BYTES_MIN = 32 << 10;

/** In how many parts of about the same length so many bytes of an object are best asked for on this line. */
export const partCount = (byteLength: number, { bytesPerSecond }: Line): number =>
  Math.ceil(byteLength / Math.max(PART_BYTES_MIN, (bytesPerSecond * PART_MS) / 1000));

export const mayStart = (fetchClass: FetchClass, outstanding: PerClass, bulk: Bulk): boolean => {
  if (outstanding[fetchClass] >= OUTSTANDING_MAX[fetchClass]) return false;
  if (fetchClass === 'demand') return true;
  if (outstanding.trace + outstanding.hoard + outstanding.background >= BULK_OUTSTANDING_MAX) return false;
  if (bulk.bytes >= bulk.bytesMax) return false;
  if (fetchClass === 'trace') return true;
  const better = outstanding.demand + outstanding.trace;
  if (fetchClass === 'hoard') return better < BETTER_OUTSTANDING_MAX;
  return better + outstanding.hoard === 0 && bulk.isBackgroundDue;
};

/** The class whose oldest request goes next; undefined when none may. */
export const nextClass = (queued: PerClass, outstanding: PerClass, bulk: Bulk): FetchClass | undefined => {
  for (const fetchClass of FETCH_CLASSES) {
    if (queued[fetchClass] > 0 && mayStart(fetchClass, outstanding, bulk)) return fetchClass;
  }
  return undefined;
};
