/**
 * How fast blocks are brought in that nobody waits for, as a function of how long the last requests waited for their first byte (§3.6 of
 * "The Collective: A Cache-Based System Management Architecture", NSDI 2005): halved when many of them were slow, doubled when most were
 * quick, else changed by a small step. A line that somebody else fills makes first bytes wait behind what is in its queue, long before the
 * rate that is seen says so; the length of a chunk does not count, nor how fast the line is.
 *
 * A request says something of the rate at which it went out: what went out before the last change is not asked, or one stall of the machine halves
 * the rate as often as there are requests in it. At the beginning, and from the lowest rate, each quick one doubles it, until one is not quick.
 *
 * What is quick is measured against the shortest wait of the last requests, so that another line, or another server, is known after some.
 */
export type RateState = {
  readonly bytesPerSecond: number;
  /** When it was last halved or doubled. */
  readonly changedAtMs: number;
  /** Each quick request doubles it. */
  readonly isRising: boolean;
  /** Waits for the first byte since then, in ms, newest last. */
  readonly sinceChange: readonly number[];
  /** The last of all, newest last. */
  readonly recent: readonly number[];
};

/** A request whose first byte has come. */
export type FirstByte = { readonly sentAtMs: number; readonly cameAtMs: number };

export const RATE_LIMITS = {
  firstBytesPerSecond: 64 << 10,
  /** One chunk in two to four seconds: enough to see when the line is idle again. */
  minBytesPerSecond: 16 << 10,
  maxBytesPerSecond: 1 << 30,
  /** Of the fastest that the line was seen to do. */
  maxOfLine: 2,
  stepBytesPerSecond: 16 << 10,
  /** Before so many slow ones it is not halved. */
  slowMin: 2,
  slowShare: 0.25,
  /** Before so many requests it is not doubled, unless it rises. */
  quickSamplesMin: 4,
  quickShare: 0.75,
  samplesMax: 8,
  recentMax: 64,
} as const;

export const FIRST_RATE: RateState = {
  bytesPerSecond: RATE_LIMITS.firstBytesPerSecond,
  changedAtMs: Number.NEGATIVE_INFINITY,
  isRising: true,
  sinceChange: [],
  recent: [],
};

/** `lineBytesPerSecond`: what the line was seen to do; 0: not known. */
export const rateAfter = (state: RateState, firstByte: FirstByte, lineBytesPerSecond: number): RateState => {
  const { minBytesPerSecond, maxBytesPerSecond, maxOfLine } = RATE_LIMITS;
  const waitMs = firstByte.cameAtMs - firstByte.sentAtMs;
  const recent = [...state.recent, waitMs].slice(-RATE_LIMITS.recentMax);
  if (firstByte.sentAtMs < state.changedAtMs) return { ...state, recent };
  const sinceChange = [...state.sinceChange, waitMs].slice(-RATE_LIMITS.samplesMax);
  const shortestMs = Math.min(...recent);
  const isSlow = (ms: number): boolean => ms > 2 * shortestMs + 20;
  const isQuick = (ms: number): boolean => ms <= 1.25 * shortestMs + 5;
  const isRising = state.isRising && isQuick(waitMs);
  const slow = sinceChange.filter(isSlow).length;
  const quick = sinceChange.filter(isQuick).length;
  const count = sinceChange.length;

  const ofLine = lineBytesPerSecond > 0 ? maxOfLine * lineBytesPerSecond : maxBytesPerSecond;
  const bounded = (wanted: number): number => Math.max(minBytesPerSecond, Math.min(wanted, maxBytesPerSecond, ofLine));
  const changed = (wanted: number): RateState => {
    const bytesPerSecond = bounded(wanted);
    const isLowest = bytesPerSecond === minBytesPerSecond;
    return { bytesPerSecond, changedAtMs: firstByte.cameAtMs, isRising: isRising || isLowest, sinceChange: [], recent };
  };
  const { bytesPerSecond } = state;
  if (slow >= RATE_LIMITS.slowMin && slow / count > RATE_LIMITS.slowShare) return changed(bytesPerSecond / 2);
  if (isRising || (count >= RATE_LIMITS.quickSamplesMin && quick / count >= RATE_LIMITS.quickShare))
    return changed(bytesPerSecond * 2);
  const step = isQuick(waitMs) ? 1 : isSlow(waitMs) ? -1 : 0;
  const stepped = bounded(bytesPerSecond + step * RATE_LIMITS.stepBytesPerSecond);
  return { ...state, bytesPerSecond: stepped, isRising, sinceChange, recent };
};
