/** The small plans: each a function of what is known. */
import { describe, expect, it } from 'vitest';
import { FETCH_CLASSES } from './block-store.js';
import { cacheBytesAllowed, fileToRelieve, slotRanges } from './cache/space-plan.js';
import { LinkMeter } from './fetch/link-meter.js';
import { QUIET_LIMIT_MAX_MS, quietLimitMs } from './fetch/quiet-limit.js';
import { planRetry } from './fetch/retry-plan.js';
import {
  bulkBytesMax,
  CHUNK_BYTES_UNKNOWN,
  mayStart,
  nextClass,
  UNKNOWN_LINE,
  type Line,
} from './fetch/scheduler-plan.js';

const GiB = 2 ** 30;
const none = { demand: 0, trace: 0, hoard: 0, background: 0 };

describe('space plan', () => {
  it('allows what is configured while the file system has room', () => {
    expect(cacheBytesAllowed({ cacheBytesMax: 10 * GiB, usedBytes: GiB, freeBytes: 50 * GiB, reserveBytes: GiB })).toBe(
      10 * GiB,
    );
  });

  it('allows only so much that the reserve stays free', () => {
    expect(
      cacheBytesAllowed({ cacheBytesMax: 10 * GiB, usedBytes: 4 * GiB, freeBytes: 2 * GiB, reserveBytes: GiB }),
    ).toBe(5 * GiB);
    expect(cacheBytesAllowed({ cacheBytesMax: 10 * GiB, usedBytes: 4 * GiB, freeBytes: 0, reserveBytes: GiB })).toBe(
      3 * GiB,
    );
    expect(cacheBytesAllowed({ cacheBytesMax: 10 * GiB, usedBytes: 0, freeBytes: 0, reserveBytes: GiB })).toBe(0);
  });

  it('takes from the file that holds most', () => {
    expect(fileToRelieve([3, 9, 4])).toBe(1);
    expect(fileToRelieve([0, 0])).toBeUndefined();
    expect(fileToRelieve([])).toBeUndefined();
  });

  it('joins neighbouring slots into ranges', () => {
    expect(slotRanges([7, 3, 4, 1, 5])).toEqual([
      { firstSlot: 1, slotCount: 1 },
      { firstSlot: 3, slotCount: 3 },
      { firstSlot: 7, slotCount: 1 },
    ]);
    expect(slotRanges([])).toEqual([]);
  });
});

describe('quiet limit', () => {
  it('is two seconds on a fast line and grows with what is in front', () => {
    expect(quietLimitMs({ roundTripMs: 20, bytesPerSecond: 12e6, outstandingBytes: 500_000 })).toBe(2_000);
    expect(quietLimitMs({ roundTripMs: 40, bytesPerSecond: 187_500, outstandingBytes: 1_000_000 })).toBeCloseTo(
      160 + 10_667,
      -1,
    );
    expect(quietLimitMs({ roundTripMs: 900, bytesPerSecond: 0, outstandingBytes: 0 })).toBe(3_600);
    expect(quietLimitMs({ roundTripMs: 900, bytesPerSecond: 1, outstandingBytes: 1e9 })).toBe(QUIET_LIMIT_MAX_MS);
  });
});

describe('retry plan', () => {
  it('keeps jitter within half of the delay', () => {
    const delays = [0, 0.5, 0.999].map((random) =>
      planRetry({ code: 'internal', fetchClass: 'demand', failures: 3, random, attemptMs: 0, isProbe: false }),
    );
    expect(delays).toEqual([
      { kind: 'again', delayMs: 400 },
      { kind: 'again', delayMs: 600 },
      { kind: 'again', delayMs: 799.6 },
    ]);
  });

  const state = { code: 'repository-unreachable', fetchClass: 'demand', random: 0.999, attemptMs: 0 } as const;

  it('never waits longer than two seconds for a guest, whatever the number of failures', () => {
    for (let failures = 1; failures < 100; failures += 1) {
      const decision = planRetry({ ...state, failures, isProbe: false });
      expect(decision.kind === 'again' && decision.delayMs <= 2_000).toBe(true);
    }
  });

  it('lets the probe try every two seconds whatever the server asks, counted from the beginning of the attempt', () => {
    const asked = { ...state, code: 'internal', failures: 9, retryAfterMs: 25_000 } as const;
    expect(planRetry({ ...asked, isProbe: false })).toEqual({ kind: 'again', delayMs: 25_000 });
    expect(planRetry({ ...asked, isProbe: true })).toEqual({ kind: 'again', delayMs: 2_000 });
    expect(planRetry({ ...asked, isProbe: true, attemptMs: 700 })).toEqual({ kind: 'again', delayMs: 1_300 });
    expect(planRetry({ ...asked, isProbe: true, attemptMs: 2_100 })).toEqual({ kind: 'again', delayMs: 0 });
    expect(planRetry({ ...state, code: 'not-allowed', failures: 9, isProbe: true })).toEqual({
      kind: 'again',
      delayMs: 2_000,
    });
  });

  it('does not probe for a block that the repository does not have', () => {
    expect(planRetry({ ...state, code: 'block-missing', failures: 1, isProbe: true })).toEqual({
      kind: 'again',
      delayMs: 30_000,
    });
  });
});

describe('scheduler plan', () => {
  const room = { bytes: 0, bytesMax: 1, isBackgroundDue: true };

  it('prefers the better class', () => {
    expect(nextClass({ demand: 1, trace: 1, hoard: 1, background: 1 }, none, room)).toBe('demand');
    expect(nextClass({ demand: 0, trace: 1, hoard: 1, background: 1 }, none, room)).toBe('trace');
    expect(nextClass({ demand: 0, trace: 0, hoard: 0, background: 1 }, none, room)).toBe('background');
    expect(nextClass(none, none, room)).toBeUndefined();
  });

  it('bounds each class and all but demand together', () => {
    expect(mayStart('demand', { ...none, demand: 16 }, room)).toBe(false);
    expect(mayStart('demand', { ...none, trace: 32 }, room)).toBe(true);
    expect(mayStart('trace', { ...none, trace: 20, hoard: 12 }, room)).toBe(false);
    expect(mayStart('background', { ...none, background: 32 }, room)).toBe(false);
    expect(mayStart('hoard', { ...none, demand: 2 }, room)).toBe(false);
    expect(mayStart('hoard', { ...none, demand: 1 }, room)).toBe(true);
    for (const better of ['demand', 'trace', 'hoard'] as const)
      expect(mayStart('background', { ...none, [better]: 1 }, room)).toBe(false);
    expect(mayStart('background', none, { ...room, isBackgroundDue: false })).toBe(false);
    const full = { ...room, bytes: 1 };
    expect(FETCH_CLASSES.filter((fetchClass) => mayStart(fetchClass, none, full))).toEqual(['demand']);
  });

  /** How many requests for such chunks go out on the line before one is answered. */
  const outstandingOn = (line: Line, chunkBytes = line.chunkBytes): number => {
    const bytesMax = bulkBytesMax(line);
    let count = 0;
    while (mayStart('trace', { ...none, trace: count }, { ...room, bytes: count * chunkBytes, bytesMax })) count += 1;
    return count;
  };

  it('lets another prefetch onto the line when less than one round trip of it is to come', () => {
    const lines = { lan: [0.5, 12.5e6], cable: [21, 12.5e6], lte: [62, 1.5e6], dsl: [42, 187_500] } as const;
    const counts = Object.entries(lines).map(([name, [roundTripMs, bytesPerSecond]]) => [
      name,
      outstandingOn({ roundTripMs, bytesPerSecond, chunkBytes: 45_000, slowStartBytes: 0 }),
    ]);
    expect(Object.fromEntries(counts)).toEqual({ lan: 1, cable: 8, lte: 3, dsl: 1 });
    expect(outstandingOn(UNKNOWN_LINE, CHUNK_BYTES_UNKNOWN)).toBe(4);
  });

  it('lets more of them go when they are short', () => {
    const lte = { roundTripMs: 62, bytesPerSecond: 1.5e6, slowStartBytes: 0 };
    expect(outstandingOn({ ...lte, chunkBytes: 4_500 })).toBe(27);
    // Whose length is known before they come, after long ones.
    expect(outstandingOn({ ...lte, chunkBytes: 45_000 }, 4_500)).toBe(27);
  });

  it('finds the rate of a line by asking for a little more than was seen', () => {
    // 20 ms and 100 Mbit/s: what is outstanding decides what is seen, until the line is full.
    let count = 4;
    const rate = (): number => Math.min(12.5e6, (count * 45_000) / 0.0236);
    for (let round = 0; round < 10; round += 1)
      count = outstandingOn({ roundTripMs: 20, bytesPerSecond: rate(), chunkBytes: 45_000, slowStartBytes: 0 });
    expect(rate()).toBe(12.5e6);
  });
});

describe('link meter', () => {
  it('forgets the shortest round trip when it is long ago, and the peak of the rate slowly', () => {
    let nowMs = 10_000;
    const meter = new LinkMeter(() => nowMs);
    expect(meter.line).toEqual({ ...UNKNOWN_LINE, slowStartBytes: 128 << 10 });
    meter.addFirstByte(3);
    meter.addBytes(1000);
    for (let answer = 0; answer < 600; answer += 1) meter.addFirstByte(20 + (answer % 7));
    expect(meter.line).toMatchObject({ roundTripMs: 20, bytesPerSecond: 10_000 });
    nowMs += 60_000;
    expect(meter.line.bytesPerSecond).toBe(10_000); // an idle line is as fast as it was
    expect(meter.status).toMatchObject({ bytes: 1000, bytesPerSecond: 0, requests: 601 });
    for (let second = 0; second < 60; second += 1) {
      nowMs += 1000;
      meter.addBytes(1);
    }
    expect(meter.line.bytesPerSecond).toBeLessThan(3_500);
  });
});
