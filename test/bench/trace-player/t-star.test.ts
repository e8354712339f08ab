/** T* by cases that were computed by hand, and against every order of sending. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { timeWithOrder, tStar, type FirstTouch } from './t-star.js';

/** 1,000 bytes a second, half a second each way. */
const line = { bitsPerSecond: 8_000, roundTripMs: 1_000 };
const touch = (atSeconds: number, chunkBytes: number): FirstTouch => ({ atUs: atSeconds * 1e6, chunkBytes });

describe('T*', () => {
  it('is the guest alone when nothing travels, and scales with its think time', () => {
    expect(tStar([], { line, endUs: 10e6, thinkFactor: 1 })).toBe(10);
    expect(tStar([], { line, endUs: 10e6, thinkFactor: 0.3 })).toBeCloseTo(3, 9);
    expect(tStar([], { line, endUs: 10e6, thinkFactor: 0 })).toBe(0);
  });

  it('without think time is one round trip and all bytes', () => {
    expect(tStar([touch(1, 1000), touch(2, 500), touch(3, 2500)], { line, endUs: 9e6, thinkFactor: 0 })).toBeCloseTo(
      5,
      9,
    );
  });

  it('one block that is touched before it can be there stops the clock until it is', () => {
    // It arrives at 1 + 2 = 3 s, was wanted at 0.5 s: a stall of 2.5 s; then the guest goes on to its end.
    expect(tStar([touch(0.5, 2000)], { line, endUs: 4e6, thinkFactor: 1 })).toBeCloseTo(6.5, 9);
  });

  it('a block that is there before it is touched costs nothing', () => {
    expect(tStar([touch(3, 2000)], { line, endUs: 4e6, thinkFactor: 1 })).toBeCloseTo(4, 9);
  });

  it('later touches shift by the stall, in which the next blocks travel on', () => {
    // Arrivals at 2, 3, 6 s. The first touch (0) stalls 2 s; the second is due at 1 + 2 = 3, just in time; the third at
    // 2 + 2 = 4, stalls 2 s more. The end is at 5 + 4 = 9 s.
    expect(tStar([touch(0, 1000), touch(1, 1000), touch(2, 3000)], { line, endUs: 5e6, thinkFactor: 1 })).toBeCloseTo(
      9,
      9,
    );
    // At 0.5: due at 0, 0.5 and 1: stalls of 2 s, of 3 − 2.5 = 0.5 s, and of 6 − 3.5 = 2.5 s; the end at 2.5 + 5 = 7.5 s.
    expect(tStar([touch(0, 1000), touch(1, 1000), touch(2, 3000)], { line, endUs: 5e6, thinkFactor: 0.5 })).toBeCloseTo(
      7.5,
      9,
    );
  });

  it('another order than that of the touches can only be worse', () => {
    const early = touch(0, 1000);
    const late = touch(5, 4000);
    const options = { line, endUs: 8e6, thinkFactor: 1 };
    expect(timeWithOrder([early, late], options)).toBeCloseTo(10, 9); // stalls 2 s; the late one, due at 7, is there at 6
    expect(timeWithOrder([late, early], options)).toBeCloseTo(14, 9); // the early one is there at 6
    expect(tStar([late, early], options)).toBeCloseTo(10, 9); // whatever order it is given in
  });

  it('no order of sending beats it (all orders of up to six blocks)', () => {
    const touches = fc.array(
      fc.record({ atUs: fc.nat({ max: 5_000_000 }), chunkBytes: fc.integer({ min: 1, max: 3_000 }) }),
      { maxLength: 6 },
    );
    fc.assert(
      fc.property(touches, fc.constantFrom(0, 0.3, 1), fc.nat({ max: 2_000 }), (blocks, thinkFactor, roundTripMs) => {
        const options = { line: { bitsPerSecond: 8_000, roundTripMs }, endUs: 5_000_000, thinkFactor };
        const best = Math.min(...permutations(blocks).map((order) => timeWithOrder(order, options)));
        expect(tStar(blocks, options)).toBeCloseTo(best, 9);
      }),
      { numRuns: 200 },
    );
  });
});

const permutations = <T>(values: readonly T[]): T[][] =>
  values.length === 0
    ? [[]]
    : values.flatMap((value, at) =>
        permutations([...values.slice(0, at), ...values.slice(at + 1)]).map((rest) => [value, ...rest]),
      );
