/** When the scrub runs and how fast: pure functions. */

/** A pass that nobody asked for: 64 GiB in two hours and a quarter. */
export const SCRUB_SLOW_BYTES_PER_SECOND = 8 << 20;
/** A pass that somebody waits for: 64 GiB in 34 minutes. Twice as fast took a seventh of a core from the guest beside it. */
export const SCRUB_ASKED_BYTES_PER_SECOND = 32 << 20;
export const SCRUB_EVERY_DAYS = 7;
/** After a stop that was not clean (power cut, kill -9) the medium is looked at when the first rush is over. */
export const SCRUB_AFTER_UNCLEAN_S = 600;
/** A pass that was interrupted goes on when blockd has run for so long. */
const CONTINUE_AFTER_S = 60;

export type ScrubSituation = {
  /** Seconds since 1970. */
  readonly nowS: number;
  readonly openedAtS: number;
  /** 0: never by itself. */
  readonly everyDays: number;
  readonly wasUnclean: boolean;
  readonly isInterrupted: boolean;
  /** When the last whole pass ended, or the record was made; undefined when that is not known. */
  readonly lastFinishedAtS: number | undefined;
};

/** Whether a pass is to begin (or to go on) by itself now. A clock that went back counts as "long ago". */
export const isScrubDue = (situation: ScrubSituation): boolean => {
  const { nowS, openedAtS, everyDays, wasUnclean, isInterrupted, lastFinishedAtS } = situation;
  if (everyDays === 0) return false;
  const openForS = Math.abs(nowS - openedAtS);
  if (isInterrupted && openForS >= CONTINUE_AFTER_S) return true;
  if (wasUnclean && openForS >= SCRUB_AFTER_UNCLEAN_S) return true;
  if (openForS < CONTINUE_AFTER_S) return false;
  return lastFinishedAtS === undefined || Math.abs(nowS - lastFinishedAtS) >= everyDays * 86_400;
};

/** How long to rest so that `doneBytes` in `passedMs` are not more than the rate; 0 when there is nothing to wait for. */
export const restMs = (doneBytes: number, passedMs: number, bytesPerSecond: number): number =>
  Math.max(0, (doneBytes / bytesPerSecond) * 1000 - passedMs);
