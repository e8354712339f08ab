/** What a seal costs is counted where it is paid. */
import { describe, expect, test } from 'vitest';
import { DurationHistogram } from '../duration-histogram.js';
import { SealTimes } from './seal-times.js';

const turn = async (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
/** Keeps the thread, as work in one turn of the event loop does. */
const keepThread = (ms: number): void => {
  for (const untilMs = performance.now() + ms; performance.now() < untilMs;);
};

describe('the times of seals', () => {
  test('a write after a turn that the seal made long has waited for that turn', async () => {
    const times = new SealTimes();
    await times.during(async () => {
      await turn();
      keepThread(20);
      await turn();
      times.noteWrite();
    });
    const { sealMs, writeWaitMs } = times.status;
    expect(writeWaitMs.count).toBe(1);
    expect(writeWaitMs.maxMs).toBeGreaterThanOrEqual(20);
    expect(sealMs).toMatchObject({ count: 1 });
    expect(sealMs.maxMs).toBeGreaterThanOrEqual(writeWaitMs.maxMs);
  });

  test('a write that waits counts as long as the seal lasted, and not when it began after it', async () => {
    const times = new SealTimes();
    const startedMs = performance.now();
    keepThread(5);
    await times.during(async () => {
      keepThread(10);
      await turn();
    });
    const { sealMs } = times.status;
    keepThread(5);
    times.noteWaited(startedMs);
    times.noteWaited(performance.now());
    const { writeWaitMs } = times.status;
    expect(writeWaitMs.count).toBe(1);
    expect(writeWaitMs.maxMs).toBeCloseTo(sealMs.maxMs, 6);
  });

  test('a seal that fails ends all the same', async () => {
    const times = new SealTimes();
    await expect(times.during(async () => Promise.reject(new Error('full')))).rejects.toThrow('full');
    expect(times.isUnderWay).toBe(false);
    expect(times.status.sealMs.count).toBe(1);
  });
});

describe('a histogram of durations', () => {
  test('has each in the first step that is not shorter, the longest exactly, and nothing is lost at the ends', () => {
    const histogram = new DurationHistogram();
    for (const ms of [0, 0.01, 1, 1.01, 5, 1e9]) histogram.add(ms);
    expect(histogram.counts).toEqual({
      ...{ count: 6, maxMs: 1e9 },
      steps: [
        { upToMs: 1 / 16, count: 2 },
        { upToMs: 1, count: 1 },
        { upToMs: 2, count: 1 },
        { upToMs: 8, count: 1 },
        { upToMs: 32768, count: 1 },
      ],
    });
  });
});
