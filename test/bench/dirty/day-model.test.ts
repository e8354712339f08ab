/** The modelled day is what its table says, and the same for the same seed; the clock that it is replayed by goes only forward. */
import { describe, expect, test } from 'vitest';
import { GRANULE_BYTES, makeDay } from './day-model.js';
import { contentOf } from './dirty-disk.js';
import { HybridClock } from './hybrid-clock.js';
import { cdfText, shareUpTo, svgOf } from './plot.js';

const SEEDS = [1, 2, 3, 4, 5];

describe('a modelled day', () => {
  test('is the same for the same seed, and another for another', () => {
    expect(makeDay(7)).toEqual(makeDay(7));
    expect(makeDay(7).events).not.toEqual(makeDay(8).events);
  });

  test.each(SEEDS)(
    'of seed %i is in order, of whole granules on the disk, and begins and ends its bursts in turn',
    (seed) => {
      const { diskBytes, events } = makeDay(seed);
      const marks = events.filter((event) => event.kind !== 'write');
      expect(marks.map(({ kind }) => kind)).toEqual(marks.map((_mark, at) => (at % 2 === 0 ? 'active' : 'idle')));
      expect(marks.length / 2).toBeGreaterThanOrEqual(5);
      let last = 0;
      for (const event of events) {
        expect(event.atSeconds).toBeGreaterThanOrEqual(last);
        last = event.atSeconds;
        if (event.kind !== 'write') continue;
        const { byteOffset, byteLength, keep } = event;
        if (byteOffset % GRANULE_BYTES !== 0 || byteLength % GRANULE_BYTES !== 0 || byteLength <= 0 || keep > 1)
          throw new Error(`not of whole granules: ${JSON.stringify(event)}`);
        if (byteOffset < 0 || byteOffset + byteLength > diskBytes)
          throw new Error(`beyond the disk: ${JSON.stringify(event)}`);
      }
    },
  );

  test('a person is idle for more than five minutes each time', () => {
    for (const seed of SEEDS) {
      const marks = makeDay(seed).events.filter((event) => event.kind !== 'write');
      for (const [at, { kind, atSeconds }] of marks.entries()) {
        const next = marks[at + 1];
        if (kind === 'idle' && next !== undefined) expect(next.atSeconds - atSeconds).toBeGreaterThan(300);
      }
    }
  });

  test('what is written is noise for its part of each granule, and never the same twice', () => {
    const of = { byteLength: 3 * GRANULE_BYTES, keep: 0.25, seed: 1, write: 1 };
    const bytes = contentOf(of);
    expect(bytes).toEqual(contentOf(of));
    expect(bytes.equals(contentOf({ ...of, write: 2 }))).toBe(false);
    const noiseBytes = GRANULE_BYTES / 4;
    for (let granule = 0; granule < 3; granule += 1) {
      const rest = bytes.subarray(granule * GRANULE_BYTES + noiseBytes, (granule + 1) * GRANULE_BYTES);
      expect(rest.toString('latin1')).toMatch(/line after line/);
    }
  });
});

describe('the clock of the replay', () => {
  test('is moved forward and wakes who slept until then, and never back', async () => {
    const clock = new HybridClock(20);
    try {
      const { signal } = new AbortController();
      const slept = clock.sleep(60_000, signal);
      expect(clock.nextWakeMs).toBeGreaterThan(59_000);
      clock.jumpTo(clock.nextWakeMs);
      await slept;
      const nowMs = clock.nowMs();
      clock.jumpTo(10);
      expect(clock.nowMs()).toBeGreaterThanOrEqual(nowMs);
      expect(nowMs).toBeGreaterThanOrEqual(60_000);
    } finally {
      clock.close();
    }
  });
});

describe('the plot', () => {
  test('says which part is at most so much', () => {
    expect(shareUpTo([1, 2, 3, 4], 2)).toBe(0.5);
    const lines = cdfText({ name: 'some', values: [0, 3e6] });
    expect(lines.find((line) => line.includes('   2 MB'))).toMatch(/50 %$/);
    const series = { name: 'Day', points: [{ atSeconds: 10, bytes: 5 }], idleSeconds: [10] };
    expect(svgOf([{ name: 'some', values: [0, 3e6] }], [series])).toMatch(/^<svg [^]*<\/svg>\n$/);
  });
});
