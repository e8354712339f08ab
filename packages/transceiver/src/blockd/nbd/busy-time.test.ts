import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { BusyTime } from './busy-time.js';

beforeEach(() => vi.useFakeTimers({ toFake: ['performance'] }));
afterEach(() => vi.useRealTimers());

test('overlapping requests count once, and a pause between them does not count', () => {
  const busy = new BusyTime();
  busy.begin();
  vi.advanceTimersByTime(10);
  busy.begin();
  vi.advanceTimersByTime(5);
  busy.end();
  vi.advanceTimersByTime(5);
  busy.end();
  vi.advanceTimersByTime(100);
  busy.begin();
  vi.advanceTimersByTime(3);
  expect(busy.totalMs).toBe(23);
  busy.end();
  expect(busy.totalMs).toBe(23);
});
