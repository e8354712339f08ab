import { describe, expect, it } from 'vitest';
import { bulkBytesMax } from './scheduler-plan.js';
import { afterBytes, afterFirstByte, SLOW_START, type SlowStart } from './slow-start.js';

const FIRST = 128 << 10;
const heard = (state: SlowStart, afterMs: number, nowMs = 0): SlowStart =>
  afterFirstByte(state, { afterMs, roundTripMs: 20, nowMs });
const late = (state: SlowStart, times: number, nowMs = 0): SlowStart =>
  Array.from({ length: times }).reduce<SlowStart>((now) => heard(now, 60, nowMs), state);

describe('the beginning of a line', () => {
  it('fills 100 Mbit/s and 20 ms within six round trips, though no rate is known', () => {
    let state = SLOW_START;
    let came = 0;
    for (let round = 1; round <= 6; round += 1) {
      const bytes = Math.min(state.bytesMax, 250_000);
      came += bytes;
      state = afterBytes(state, bytes, round * 20);
      state = heard(state, 21);
    }
    expect(came).toBeGreaterThan(1_300_000);
    expect(bulkBytesMax({ roundTripMs: 20, bytesPerSecond: 1e6, chunkBytes: 0, slowStartBytes: state.bytesMax })).toBe(
      state.bytesMax,
    );
  });

  it('ends when three first bytes in a row are late: half of it holds until the rate is known', () => {
    const grown = afterBytes(SLOW_START, 1_000_000, 0);
    expect(late(grown, 2)).toMatchObject({ kind: 'growing' });
    expect(late(heard(late(grown, 2), 50), 2)).toMatchObject({ kind: 'growing' }); // one of them was quick
    const full = late(grown, 3, 100);
    expect(full).toEqual({ kind: 'holding', bytesMax: (FIRST + 1_000_000) / 2, untilMs: 700 });
    expect(afterBytes(full, 1e6, 699)).toBe(full);
    expect(afterBytes(full, 1e6, 700)).toEqual({ kind: 'over', bytesMax: 0 });
  });

  it('ends by itself when nothing fills the line', () => {
    const grown = afterBytes(SLOW_START, 1_000, 0);
    expect(afterBytes(grown, 1_000, 1_499)).toMatchObject({ kind: 'growing', bytesMax: FIRST + 2_000 });
    const over = afterBytes(grown, 1_000, 1_500);
    expect(over).toEqual({ kind: 'over', bytesMax: 0 });
    expect(late(afterBytes(over, 1e6, 2_000), 5)).toEqual(over);
  });
});
