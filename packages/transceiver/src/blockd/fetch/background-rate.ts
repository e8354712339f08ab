/**
 * How fast blocks are brought in that nobody waits for, as a function of how long the last requests waited for their first byte (§3.6 of
 * "The Collective: A Cache-Based System Management Architecture", NSDI 2005): halved when many of them were slow, doubled when most were
 * quick, else changed by a small step. A line that somebody else fills makes first bytes wait behind what is in its queue, long before the
 * rate that is seen says so; the length of a chunk does not count, nor how fast the line is.
 *
 * What is quick is measured against the shortest wait of the last requests, so that another line, or another server, is known after some.
 */
export type RateState = {
  readonly bytesPerSecond: number;
  /** Waits for the first byte since the rate was last halved or doubled, in ms, newest last. */
  readonly sinceChange: readonly number[];
  /** The last of all, newest last. */
  readonly recent: readonly number[];
};

export const RATE_LIMITS = {
  firstBytesPerSecond: 64 << 10,
  /** One chunk in some seconds: enough to see when the line is idle again. */
  minBytesPerSecond: 8 << 10,
  maxBytesPerSecond: 1 << 30,
  /** Of the fastest that the line was seen to do. */
  maxOfLine: 2,
  stepBytesPerSecond: 16 << 10,
  /** Before so many requests nothing is halved or doubled. */
  samplesMin: 4,
  samplesMax: 8,
  recentMax: 32,
  slowShare: 0.25,
  quickShare: 0.75,
} as const;

export const FIRST_RATE: RateState = {
  bytesPerSecond: RATE_LIMITS.firstBytesPerSecond,
  sinceChange: [],
  recent: [],
};

/** A first byte came after so long. `lineBytesPerSecond`: what the line was seen to do; 0: not known. */
export const rateAfter = (state: RateState, firstByteMs: number, lineBytesPerSecond: number): RateState => {
  const recent = [...state.recent, firstByteMs].slice(-RATE_LIMITS.recentMax);
  const sinceChange = [...state.sinceChange, firstByteMs].slice(-RATE_LIMITS.samplesMax);
  const shortestMs = Math.min(...recent);
  const share = (is: (waitMs: number) => boolean): number => sinceChange.filter(is).length / sinceChange.length;
  const isSlow = (waitMs: number): boolean => waitMs > 2 * shortestMs + 20;
  const isQuick = (waitMs: number): boolean => waitMs <= 1.25 * shortestMs + 5;
  const { bytesPerSecond } = state;
  const bounded = (wanted: number): number => {
    const ofLine = lineBytesPerSecond > 0 ? RATE_LIMITS.maxOfLine * lineBytesPerSecond : RATE_LIMITS.maxBytesPerSecond;
    return Math.max(RATE_LIMITS.minBytesPerSecond, Math.min(wanted, RATE_LIMITS.maxBytesPerSecond, ofLine));
  };
  if (sinceChange.length >= RATE_LIMITS.samplesMin) {
    if (share(isSlow) > RATE_LIMITS.slowShare)
      return { bytesPerSecond: bounded(bytesPerSecond / 2), sinceChange: [], recent };
    if (share(isQuick) >= RATE_LIMITS.quickShare)
      return { bytesPerSecond: bounded(bytesPerSecond * 2), sinceChange: [], recent };
  }
  const step = isQuick(firstByteMs) ? 1 : isSlow(firstByteMs) ? -1 : 0;
  return { bytesPerSecond: bounded(bytesPerSecond + step * RATE_LIMITS.stepBytesPerSecond), sinceChange, recent };
};
