/**
 * How often a slot was read, in one byte: frequency 0 to 3 in the low bits, the epoch of the last count above.
 *
 * A guest reads a 64 KiB block as sixteen reads of 4 KiB; that is one use. So a slot counts at most one touch an epoch
 * (about 10 s), and the filling of a slot stands for the touch of its own epoch. Both threads write these bytes without
 * a lock: a lost count costs nothing.
 */
export const FREQUENCY_MAX = 3;
export const TOUCH_EPOCH_MS = 10_000;

const EPOCH_MASK = 63;

export const epochOf = (nowMs: number): number => Math.floor(nowMs / TOUCH_EPOCH_MS) & EPOCH_MASK;

export const frequencyOf = (touch: number): number => touch & FREQUENCY_MAX;

/** The byte of a slot that was filled just now. */
export const freshTouch = (epoch: number, frequency = 0): number => (epoch << 2) | frequency;

export const countTouch = (touches: Uint8Array, slot: number, epoch: number): void => {
  const touch = touches[slot] ?? 0;
  if (touch >> 2 === epoch) return;
  touches[slot] = (epoch << 2) | Math.min(FREQUENCY_MAX, (touch & FREQUENCY_MAX) + 1);
};

/** Takes one off the frequency and leaves the epoch. */
export const lowerFrequency = (touches: Uint8Array, slot: number): void => {
  const touch = touches[slot] ?? 0;
  if ((touch & FREQUENCY_MAX) > 0) touches[slot] = touch - 1;
};
