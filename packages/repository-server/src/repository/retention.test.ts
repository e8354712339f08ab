import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type RetainedSnapshot } from '../catalogue/subscriptions.js';
import { RETENTION_DEFAULT, retentionPlan, type RetentionSettings } from './retention.js';
import { parseRetention, retentionWords } from './retention-file.js';

const HOUR = 3_600;
const DAY = 86_400;
/** The beginning of a week as retention counts it. */
const NOW = 3_000 * 7 * DAY;

const every = (seconds: number, from: number, to: number): RetainedSnapshot[] =>
  Array.from({ length: Math.floor((to - from) / seconds) + 1 }, (_, index) => ({
    number: index + 1,
    committedAt: from + index * seconds,
    pinned: false,
  }));
const planned = (
  snapshots: readonly RetainedSnapshot[],
  now = NOW,
  settings: RetentionSettings = RETENTION_DEFAULT,
): RetainedSnapshot[] => {
  const kept = retentionPlan(snapshots, now, settings);
  return snapshots.filter(({ number }) => kept.has(number));
};
const between = (kept: readonly RetainedSnapshot[], oldest: number, youngest: number): number =>
  kept.filter(({ committedAt }) => committedAt > NOW - oldest && committedAt <= NOW - youngest).length;

describe('retention', () => {
  test('a snapshot every 30 s for ten weeks: all of an hour, then 5 minutes, hours, days, weeks', () => {
    const kept = planned(every(30, NOW - 70 * DAY, NOW));
    expect(between(kept, HOUR, 0)).toBe(120);
    // Where two steps meet, the younger one has the rest of an interval.
    const isAbout = (count: number, wanted: number): void => expect(Math.abs(count - wanted)).toBeLessThanOrEqual(1);
    isAbout(between(kept, DAY, HOUR), 23 * 12);
    isAbout(between(kept, 7 * DAY, DAY), 6 * 24);
    isAbout(between(kept, 35 * DAY, 7 * DAY), 28); // a month, and the rest of its first week
    isAbout(between(kept, 70 * DAY, 35 * DAY), 5);
  });
  test('the last ten stay however old and close they are', () => {
    const old = every(1, NOW - 400 * DAY, NOW - 400 * DAY + 99);
    expect(planned(old).map(({ number }) => number)).toEqual([91, 92, 93, 94, 95, 96, 97, 98, 99, 100]);
  });
  test('the head stays even when the settings would keep none, and so do pinned ones', () => {
    const settings = { ...RETENTION_DEFAULT, newestCount: 0 };
    const old = every(1, NOW - 400 * DAY, NOW - 400 * DAY + 4).map((snapshot) => ({
      ...snapshot,
      pinned: snapshot.number === 2,
    }));
    expect([...retentionPlan(old, NOW, settings)].sort()).toEqual([2, 5]);
  });
  test('what is younger than now, because a clock went back, is kept', () => {
    const future = every(1, NOW + DAY, NOW + DAY + 50);
    expect(planned(future)).toEqual(future);
  });
  test('nothing has nothing to keep', () => {
    expect(retentionPlan([], NOW, RETENTION_DEFAULT)).toEqual(new Set());
  });

  const histories = fc
    .array(fc.tuple(fc.integer({ min: 1, max: 9 * HOUR }), fc.boolean()), { minLength: 1, maxLength: 300 })
    .map((gaps) => {
      let committedAt = NOW - 60 * DAY;
      return gaps.map(([gap, pinned], index) => {
        committedAt += gap;
        return { number: index + 1, committedAt, pinned: pinned && index % 17 === 0 };
      });
    });
  /** Whatever an administrator may set: ages that grow, each interval a multiple of the one before, something or nothing then. */
  const settings: fc.Arbitrary<RetentionSettings> = fc
    .record({
      isAllFirst: fc.boolean(),
      first: fc.integer({ min: 1, max: 2 * HOUR }),
      steps: fc.array(
        fc.record({ factor: fc.integer({ min: 1, max: 4 }), gap: fc.integer({ min: 1, max: 9 * DAY }) }),
        { maxLength: 6 },
      ),
      then: fc.option(fc.integer({ min: 1, max: 20 }), { nil: undefined }),
      newestCount: fc.integer({ min: 10, max: 40 }),
    })
    .map(({ isAllFirst, first, steps, then, newestCount }) => {
      let [ageSeconds, everySeconds] = [0, 0];
      const made = steps.map(({ factor, gap }, at) => {
        ageSeconds += gap;
        everySeconds = at === 0 && isAllFirst ? 0 : everySeconds === 0 ? first : everySeconds * factor;
        return { ageSeconds, everySeconds };
      });
      const everySecondsThen = then === undefined ? undefined : Math.max(everySeconds, first) * then;
      return { steps: made, everySecondsThen, newestCount };
    });
  test('thinning often and thinning once come to the same, whatever is set', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.constant(RETENTION_DEFAULT), settings),
        histories,
        fc.array(fc.integer({ min: 0, max: 40 * DAY }), { minLength: 1, maxLength: 6 }),
        (set, all, waits) => {
          let now = Math.max(...all.map(({ committedAt }) => committedAt));
          let kept = all;
          for (const wait of waits) {
            now += wait;
            kept = planned(kept, now, set);
          }
          expect(kept).toEqual(planned(all, now, set));
        },
      ),
      { numRuns: 800 },
    );
  });
  test('the words of a setting are read again as the same, unless they would keep too much', () => {
    fc.assert(
      fc.property(settings, (plan) => {
        const words = retentionWords({ plan, deletedSeconds: 30 * DAY });
        try {
          expect(parseRetention(words)).toEqual({ plan, deletedSeconds: 30 * DAY });
        } catch (error) {
          expect(String(error)).toMatch(/would stay in a year/);
        }
      }),
    );
  });
  test('two of one interval in which the end of a step falls are thinned the same today as yesterday', () => {
    // Were the interval cut in two, each would be the last of its half, and only one of them was the last of it before.
    const middle = NOW - 30 * DAY + 10 * HOUR;
    const all = [...every(1, middle, middle + 1), ...every(HOUR, middle + DAY, middle + 2 * DAY)].map(
      (snapshot, index) => ({ ...snapshot, number: index + 1 }),
    );
    const now = middle + 30 * DAY + 1;
    const often = planned(planned(all, middle + 3 * DAY), now);
    expect(often).toEqual(planned(all, now));
  });
  test('the head, pinned ones and the last ten are in every plan, and the gaps are bounded by what is set', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.constant(RETENTION_DEFAULT), settings),
        histories,
        fc.integer({ min: 0, max: 100 * DAY }),
        (set, all, wait) => {
          const now = Math.max(...all.map(({ committedAt }) => committedAt)) + wait;
          const kept = new Set(planned(all, now, set));
          const { steps, everySecondsThen } = set;
          for (const snapshot of all) {
            if (snapshot.pinned || snapshot.number > all.length - 10) expect(kept).toContain(snapshot);
            // Of each interval of its age one stays, and a step may have the rest of an interval of the next one.
            const at = steps.findIndex(({ ageSeconds }) => now - snapshot.committedAt <= ageSeconds);
            const everySeconds = at < 0 ? everySecondsThen : steps[at]?.everySeconds;
            if (everySeconds === 0) expect(kept).toContain(snapshot);
            if (everySeconds === undefined || everySeconds === 0) continue;
            const isNear = (other: RetainedSnapshot): boolean =>
              Math.floor(other.committedAt / everySeconds) === Math.floor(snapshot.committedAt / everySeconds);
            expect([...kept].some(isNear)).toBe(true);
          }
        },
      ),
      { numRuns: 400 },
    );
  });
  test('nothing of what is older than the steps stays when nothing is to stay, but the newest and pinned ones', () => {
    const set = { steps: [{ ageSeconds: DAY, everySeconds: 0 }], everySecondsThen: undefined, newestCount: 10 };
    const all = every(HOUR, NOW - 3 * DAY, NOW).map((snapshot) => ({ ...snapshot, pinned: snapshot.number === 5 }));
    expect(planned(all, NOW, set).map(({ number }) => number)).toEqual([
      5,
      ...Array.from({ length: 25 }, (_, at) => 49 + at),
    ]);
    expect(planned(all, NOW + 9 * DAY, set)).toHaveLength(11);
  });
});
