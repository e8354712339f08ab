import { describe, expect, it } from 'vitest';
import { FIRST_RATE, RATE_LIMITS, rateAfter, type RateState } from './background-rate.js';

/** Requests one after the other, each sent when the one before was answered. */
const after = (waits: readonly number[], state: RateState = FIRST_RATE, line = 0, fromMs = 0): RateState => {
  let nowMs = fromMs;
  return waits.reduce((now, waitMs) => {
    const sentAtMs = nowMs;
    nowMs += waitMs;
    return rateAfter(now, { sentAtMs, cameAtMs: nowMs }, line);
  }, state);
};
/** As at the beginning, but it has seen a request that was neither quick nor slow after a quick one. */
const STEADY: RateState = { ...FIRST_RATE, isRising: false };
const first = RATE_LIMITS.firstBytesPerSecond;

const CHUNK_BYTES = 32_000;

/**
 * A line with a queue of its own that others fill too: `others` (0 to 1) of its capacity is taken, and while that and ours are more than there is
 * the queue grows, up to 300 ms. Resolves with what we got in each second.
 */
const seconds = (line: (second: number) => { readonly capacity: number; readonly others: number }, count: number) => {
  let state = FIRST_RATE;
  let nowMs = 0;
  let queueMs = 0;
  let peak = 0;
  const got = new Array<number>(count).fill(0);
  while (nowMs < count * 1000) {
    const { capacity, others } = line(Math.floor(nowMs / 1000));
    const gapMs = (CHUNK_BYTES * 1000) / state.bytesPerSecond;
    const free = capacity * (1 - others);
    // Another download always has more to send than the line holds: it keeps the queue full by itself.
    const filled = others > 0 ? 300 : Math.max(0, queueMs + (CHUNK_BYTES * 1000) / free - gapMs);
    queueMs = Math.min(300, filled);
    state = rateAfter(state, { sentAtMs: nowMs, cameAtMs: nowMs + 20 + queueMs }, peak);
    nowMs += Math.max(gapMs, queueMs >= 300 ? (CHUNK_BYTES * 1000) / capacity : 0);
    const at = Math.floor(nowMs / 1000);
    if (at < count) got[at] = (got[at] ?? 0) + CHUNK_BYTES;
    peak = Math.max(peak * 0.98, Math.min(state.bytesPerSecond, capacity));
  }
  return got;
};

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

describe('rate of the background', () => {
  it('doubles when most first bytes were quick, halves when many were slow, and moves a little otherwise', () => {
    expect(after([20, 20, 20, 20], STEADY).bytesPerSecond).toBe(2 * (first + 3 * RATE_LIMITS.stepBytesPerSecond));
    const quick = { ...after([20, 20, 20, 20], STEADY), changedAtMs: 0 };
    expect(after([20, 90, 90], quick).bytesPerSecond).toBe(quick.bytesPerSecond / 2);
    // Neither: the last one decides, and one between changes nothing.
    expect(after([20, 40, 40, 40], STEADY).bytesPerSecond).toBe(first + RATE_LIMITS.stepBytesPerSecond);
    expect(after([20, 40, 40, 90, 40], STEADY).bytesPerSecond).toBe(first);
  });

  it('doubles with each quick one at the beginning and from the lowest rate, until one is not quick', () => {
    expect(after([20, 20, 20]).bytesPerSecond).toBe(8 * first);
    const risen = after([20, 20, 20, 40, 20]);
    expect(risen).toMatchObject({ bytesPerSecond: 8 * first + RATE_LIMITS.stepBytesPerSecond, isRising: false });
    const lowest = after([20, ...new Array<number>(20).fill(300)]);
    expect(lowest.bytesPerSecond).toBe(RATE_LIMITS.minBytesPerSecond);
    expect(after([20, 20, 20], lowest, 0, 10_000).bytesPerSecond).toBe(8 * RATE_LIMITS.minBytesPerSecond);
  });

  it('is halved once by a stall, however many requests were in it', () => {
    const state = after([20, 20, 20, 20, 20, 40]);
    const stalled = Array.from({ length: 12 }, (_, at) => ({ sentAtMs: 200 + at, cameAtMs: 500 }));
    const stalledState = stalled.reduce((now, firstByte) => rateAfter(now, firstByte, 0), state);
    expect(stalledState.bytesPerSecond).toBe((state.bytesPerSecond - RATE_LIMITS.stepBytesPerSecond) / 2);
  });

  it('stays within its bounds, and below twice what the line was seen to do', () => {
    const many = (waitMs: number) => new Array<number>(400).fill(waitMs);
    expect(after(many(20)).bytesPerSecond).toBe(RATE_LIMITS.maxBytesPerSecond);
    expect(after(many(20), FIRST_RATE, 250_000).bytesPerSecond).toBe(500_000);
    expect(after([20, ...new Array<number>(28).fill(400)]).bytesPerSecond).toBe(RATE_LIMITS.minBytesPerSecond);
  });

  it('takes a longer way for what is usual after some requests', () => {
    const near = after(new Array<number>(40).fill(20), FIRST_RATE, 1e6);
    const far = after(new Array<number>(150).fill(200), near, 1e6, 10_000);
    expect(far.bytesPerSecond).toBe(2e6);
  });

  it('uses an idle line, and gets out of the way of another download', () => {
    const capacity = 1.5e6;
    const got = seconds((second) => ({ capacity, others: second >= 60 && second < 120 ? 0.9 : 0 }), 180);
    const alone = mean(got.slice(20, 60));
    expect(alone).toBeGreaterThan(0.7 * capacity);
    expect(mean(got.slice(70, 120))).toBeLessThan(0.05 * capacity);
    expect(mean(got.slice(150, 180))).toBeGreaterThan(0.7 * capacity);
  });

  it('follows a line whose capacity swings', () => {
    const capacityAt = (second: number): number => (Math.floor(second / 60) % 2 === 0 ? 31e6 : 250e3);
    const got = seconds((second) => ({ capacity: capacityAt(second), others: 0 }), 240);
    for (const from of [30, 90, 150, 210]) {
      const used = mean(got.slice(from, from + 30)) / capacityAt(from);
      expect(used).toBeGreaterThan(0.6);
      expect(used).toBeLessThan(1.1);
    }
  });
});
