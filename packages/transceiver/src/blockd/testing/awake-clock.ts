/** Time as a test may hold it against what it tests: not the time in which the machine let this process not run at all. */
const BEAT_MS = 10;
/** Later than this it stood still. */
const LATE_MS = 50;

let lastBeatMs: number | undefined;
let stoodStillMs = 0;

const beat = (): void => {
  const nowMs = performance.now();
  const lateMs = nowMs - (lastBeatMs ?? nowMs) - BEAT_MS;
  if (lateMs > LATE_MS) stoodStillMs += lateMs;
  lastBeatMs = nowMs;
};

/** A clock that stands still while this process does, and so whatever it would have seen. */
export const awakeMs = (): number => {
  if (lastBeatMs === undefined) setInterval(beat, BEAT_MS).unref();
  beat();
  return performance.now() - stoodStillMs;
};
