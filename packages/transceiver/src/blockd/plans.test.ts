/** The small plans: each a function of what is known. */
import { describe, expect, it } from 'vitest';
import { cacheBytesAllowed, fileToRelieve, slotRanges } from './cache/space-plan.js';
import { QUIET_LIMIT_MAX_MS, quietLimitMs } from './fetch/quiet-limit.js';
import { planRetry } from './fetch/retry-plan.js';
import { mayStart, nextClass } from './fetch/scheduler-plan.js';

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
      planRetry({ code: 'internal', fetchClass: 'demand', failures: 3, random }),
    );
    expect(delays).toEqual([
      { kind: 'again', delayMs: 400 },
      { kind: 'again', delayMs: 600 },
      { kind: 'again', delayMs: 799.6 },
    ]);
  });

  it('never waits longer than two seconds for a guest, whatever the number of failures', () => {
    for (let failures = 1; failures < 100; failures += 1) {
      const decision = planRetry({ code: 'repository-unreachable', fetchClass: 'demand', failures, random: 0.999 });
      expect(decision.kind === 'again' && decision.delayMs <= 2_000).toBe(true);
    }
  });
});

describe('scheduler plan', () => {
  it('prefers the better class', () => {
    expect(nextClass({ demand: 1, trace: 1, hoard: 1, background: 1 }, none)).toBe('demand');
    expect(nextClass({ demand: 0, trace: 1, hoard: 1, background: 1 }, none)).toBe('trace');
    expect(nextClass({ demand: 0, trace: 0, hoard: 0, background: 1 }, none)).toBe('background');
    expect(nextClass(none, none)).toBeUndefined();
  });

  it('bounds each class and all but demand together', () => {
    expect(mayStart('demand', { ...none, demand: 16 })).toBe(false);
    expect(mayStart('demand', { ...none, trace: 8 })).toBe(true);
    expect(mayStart('trace', { ...none, trace: 4, hoard: 4 })).toBe(false);
    expect(mayStart('background', { ...none, background: 2 })).toBe(false);
    expect(mayStart('background', { ...none, demand: 2 })).toBe(false);
  });
});
