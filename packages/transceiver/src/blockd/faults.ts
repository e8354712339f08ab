/**
 * Every kind of fault that the block path meets and lives with: one name each, counted where it is met, shown by `status`.
 *
 * A counter says that the promise held, not that it broke: what is counted here was noticed, nothing of it was served. What a
 * guest saw of it is at most a longer read, or a pause (`reads-given-up`).
 */
import { CollectiveError, hasCode } from '@collective/shared/errors';

/** What each counter counts, as the words after "N times". */
export const FAULTS = {
  // the cache on the local disk
  'cache-block-damaged': 'a block in the cache was not what it should be, and was fetched again',
  'cache-block-unreadable':
    'a block in the cache could not be read (a file that was cut, a failing disk), and was fetched again',
  'scrub-block-damaged':
    'the scrub found a block in the cache that was not what it should be; it is fetched again when it is wanted',
  'cache-file-cut': 'a cache file was cut while in use; all that it holds was checked anew',
  'cache-record-damaged': 'an entry of the cache’s table was damaged, and was forgotten',
  'cache-table-unusable': 'a table of the cache could not be used, and that cache file was begun anew',
  'cache-disk-full': 'a block did not fit on the local disk, and was served from memory',
  'cache-write-failed': 'a block could not be written into the cache, and was served from memory',
  'cache-table-write-failed': 'the table of the cache could not be written; it is written again later',
  // what comes over the line
  'net-unreachable': 'the repository could not be reached, or a connection broke',
  'net-silent': 'the repository fell silent, and was asked again on a new connection',
  'net-slow': 'an answer came too slowly, and was asked for again on a new connection',
  'net-too-long': 'an answer was longer than a block can be, and was dropped',
  'net-not-a-block': 'an answer was cut short or something else than a block, and was dropped',
  'net-wrong-bytes': 'an answer held other bytes than it should, and was dropped',
  'net-no-key': 'a block came whose key is not known here yet, and was dropped',
  'net-token-refused': 'the repository no longer took the token',
  'net-not-allowed': 'the repository refused access',
  'net-missing': 'the repository did not have a block',
  'net-busy': 'the repository was too busy or asked for a pause',
  'net-server-failed': 'the repository failed',
  'net-odd-answer': 'the repository gave an answer that is none (a redirect, say)',
  'net-wrong-server': 'another server than the repository answered',
  // towards the guest
  'reads-given-up': 'a read did not get its block in time; the machine was paused for it',
  'write-disk-full': 'a write of a machine found the local disk full; the machine was paused for it',
  'write-failed': 'a read or write of a machine failed on the local disk; the machine was paused for it',
  'layer-damaged':
    'what a machine had written was not on the local disk as it was written; it was not served, and the machine was paused for it',
} as const satisfies Record<string, string>;

export type FaultName = keyof typeof FAULTS;
/** Only what was met. */
export type FaultCounts = Readonly<Partial<Record<FaultName, number>>>;

export const isFaultName = (text: unknown): text is FaultName =>
  typeof text === 'string' && Object.hasOwn(FAULTS, text);

export class FaultCounters {
  readonly #counts = new Map<FaultName, number>();

  count(name: FaultName, times = 1): void {
    if (times > 0) this.#counts.set(name, (this.#counts.get(name) ?? 0) + times);
  }

  get counts(): FaultCounts {
    return inTableOrder(this.#counts);
  }
}

/** Counts of several parts together. */
export const sumFaults = (parts: readonly FaultCounts[]): FaultCounts => {
  const sum = new Map<FaultName, number>();
  for (const part of parts) {
    for (const [name, times] of Object.entries(part)) {
      if (isFaultName(name) && times > 0) sum.set(name, (sum.get(name) ?? 0) + times);
    }
  }
  return inTableOrder(sum);
};

const inTableOrder = (counts: ReadonlyMap<FaultName, number>): FaultCounts =>
  Object.fromEntries(
    Object.keys(FAULTS).flatMap((name) => {
      const times = isFaultName(name) ? counts.get(name) : undefined;
      return times === undefined ? [] : [[name, times]];
    }),
  );

/** The fault that a failed attempt to fetch a block stands for; undefined for what is none (a stop, a change of connections). */
export const faultOfFetch = (error: CollectiveError): FaultName | undefined => {
  const { code, data } = error;
  if (isFaultName(data['fault'])) return data['fault'];
  switch (code) {
    case 'repository-unreachable':
      return data['isRenewal'] === true ? undefined : 'net-unreachable';
    case 'wrong-server':
      return 'net-wrong-server';
    case 'token-expired':
      return 'net-token-refused';
    case 'not-allowed':
      return 'net-not-allowed';
    case 'block-missing':
      return 'net-missing';
    case 'rate-limited':
      return 'net-busy';
    case 'block-corrupt':
      return 'net-wrong-bytes';
    case 'wrong-key':
      return 'net-no-key';
    case 'internal': {
      const status = Number(data['status'] ?? 500);
      if (status === 503) return 'net-busy';
      return status >= 500 ? 'net-server-failed' : 'net-odd-answer';
    }
    default:
      return undefined;
  }
};

/** The fault that a chunk stands for which could not be decoded. */
export const faultOfChunk = (error: CollectiveError): FaultName =>
  hasCode(error, 'digest-mismatch') ? 'net-wrong-bytes' : 'net-not-a-block';

/** The fault that a failed request of a guest stands for. */
export const faultOfRequest = (error: unknown): FaultName | undefined => {
  if (error instanceof CollectiveError && isFaultName(error.data['fault'])) return error.data['fault'];
  if (hasCode(error, 'block-unavailable')) return 'reads-given-up';
  if (hasCode(error, 'disk-full')) return 'write-disk-full';
  return hasCode(error, 'local-io') ? 'write-failed' : undefined;
};
