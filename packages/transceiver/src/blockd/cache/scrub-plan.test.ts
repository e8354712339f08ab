import { expect, test } from 'vitest';
import { isScrubDue, restMs, SCRUB_AFTER_UNCLEAN_S, type ScrubSituation } from './scrub-plan.js';

const DAY = 86_400;
const situation: ScrubSituation = {
  nowS: 100 * DAY,
  openedAtS: 100 * DAY - 3_600,
  everyDays: 7,
  wasUnclean: false,
  isInterrupted: false,
  lastFinishedAtS: 99 * DAY,
};

test.each([
  ['a day after the last', {}, false],
  ['a week after the last', { lastFinishedAtS: 93 * DAY }, true],
  ['when nothing is known of the last', { lastFinishedAtS: undefined }, true],
  [
    'never by itself when it is set to 0',
    { everyDays: 0, lastFinishedAtS: 0, wasUnclean: true, isInterrupted: true },
    false,
  ],
  ['after an unclean stop', { wasUnclean: true }, true],
  ['not in the first minutes after one', { wasUnclean: true, openedAtS: 100 * DAY - SCRUB_AFTER_UNCLEAN_S + 1 }, false],
  ['to go on with one that was interrupted', { isInterrupted: true }, true],
  ['not in the first seconds', { lastFinishedAtS: 0, isInterrupted: true, openedAtS: 100 * DAY - 30 }, false],
  ['when the clock has gone back a year', { lastFinishedAtS: 465 * DAY }, true],
])('a pass begins %s: %j -> %s', (_, change, expected) => {
  expect(isScrubDue({ ...situation, ...change })).toBe(expected);
});

test('rests as long as the rate asks for, and not when it is behind', () => {
  expect(restMs(10_000, 400, 10_000)).toBe(600);
  expect(restMs(10_000, 1_200, 10_000)).toBe(0);
});
