/**
 * How long a request may go without a byte before it is repeated on a new connection, as a function of the line:
 * four round trips and what is in front of it on the line, twice over, and never less than 2 s. (undici's own time-outs
 * are 300 s.) A connection can be dead without a sign: a NAT entry that expired, Wi-Fi that is gone.
 */
export type LineState = {
  /** Shortest time to the first byte that was seen. */
  readonly roundTripMs: number;
  /** Fastest that was seen lately; 0 when nothing is known. */
  readonly bytesPerSecond: number;
  readonly outstandingBytes: number;
};

export const QUIET_LIMIT_MIN_MS = 2_000;
export const QUIET_LIMIT_MAX_MS = 30_000;

/** How long a whole answer may take: one that trickles is as good as none. `lineLimitMs`: the quiet limit of an empty line. */
export const wholeLimitMs = (lineLimitMs: number, patience: number): number => lineLimitMs * WHOLE_FACTOR * patience;

const WHOLE_FACTOR = 10;
const PATIENCE_MAX = 32;

/**
 * The patience after an answer that ended, or was given up for trickling (`tookMs` infinite). Giving up doubles it, once for all
 * that were under way, because it may be the line that is slow; an answer that was fast halves it again.
 */
export const patienceAfter = (
  now: number,
  answer: { readonly patience: number; readonly wholeMs: number; readonly tookMs: number },
): number => {
  if (answer.tookMs > answer.wholeMs) return Math.min(PATIENCE_MAX, Math.max(now, answer.patience * 2));
  return answer.tookMs * 4 < answer.wholeMs ? Math.max(1, now / 2) : now;
};

export const quietLimitMs = (line: LineState): number => {
  const shareMs = line.bytesPerSecond > 0 ? (line.outstandingBytes / line.bytesPerSecond) * 1000 : 0;
  return Math.min(QUIET_LIMIT_MAX_MS, Math.max(QUIET_LIMIT_MIN_MS, 4 * line.roundTripMs + 2 * shareMs));
};
