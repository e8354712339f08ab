import { expect, test } from 'vitest';
import { RebootPlan } from './reboot-plan.js';

test('a guest may reboot at once a few times; one that does nothing else waits longer each time, up to half a minute', () => {
  const plan = new RebootPlan();
  const waits = Array.from({ length: 10 }, () => plan.waitMsAfter(800));
  expect(waits).toEqual([0, 0, 0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
  expect(plan.waitMsAfter(60_000)).toBe(0);
  expect(plan.waitMsAfter(800)).toBe(0);
});
