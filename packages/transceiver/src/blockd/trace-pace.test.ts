import { BOOT_PHASE, type BootSegment, type Digest, type TraceTouch } from '@collective/shared';
import { describe, expect, it } from 'vitest';
import { dueOf, LEAD_MS, NOTHING_ASKED } from './trace-pace.js';

/** One touch a second, the prompt after 30. */
const PROMPT = 30;
const touches = Array.from({ length: 60 }, (_, at): TraceTouch => ({
  blockIndex: 100 - at,
  afterMs: at * 1_000,
  phase: at < PROMPT ? BOOT_PHASE.firmware : BOOT_PHASE.idle,
  chunkBytes: 1,
}));
const segmentsOf = (...counts: readonly number[]): BootSegment[] =>
  counts.map((count) => ({ digest: 'ab'.repeat(32) as Digest, touches: count, chunkBytes: count }));
const LEAD = LEAD_MS / 1_000;
const BEGIN = { elapsedMs: 0, touched: 0 };

describe('what of a trace is asked for', () => {
  it('is all up to the prompt at once, and what follows within the lead', () => {
    const trace = { touches, segments: [] };
    expect(dueOf(trace, BEGIN)).toEqual({ touches: PROMPT, segments: 0 });
    expect(dueOf(trace, { elapsedMs: (PROMPT - LEAD - 1) * 1_000, touched: 0 }).touches).toBe(PROMPT);
    expect(dueOf(trace, { elapsedMs: 40_500, touched: 0 }).touches).toBe(40 + LEAD + 1);
  });

  it('goes by what the guest has touched, where it is faster than boots were', () => {
    expect(dueOf({ touches, segments: [] }, { elapsedMs: 3_000, touched: 41 }).touches).toBe(40 + LEAD + 1);
    expect(dueOf({ touches, segments: [] }, { elapsedMs: 0, touched: 500 }).touches).toBe(60);
  });

  it('is whole segments', () => {
    const segments = segmentsOf(2, 2, 8, 8, 8, 8, 8, 8, 8);
    const first = dueOf({ touches, segments }, BEGIN);
    expect(first).toEqual({ touches: 36, segments: 6 });
    const later = dueOf({ touches, segments }, { elapsedMs: 40_000, touched: 0 }, first);
    expect(later).toEqual({ touches: 44, segments: 7 });
    expect(dueOf({ touches, segments }, { elapsedMs: 60_000, touched: 0 }, later)).toEqual({
      touches: 60,
      segments: 9,
    });
  });

  it('is everything of a trace without phases, whose segments say more than it has, and of none', () => {
    const plain = touches.map((touch) => ({ ...touch, phase: BOOT_PHASE.firmware }));
    expect(dueOf({ touches: plain, segments: segmentsOf(100) }, BEGIN)).toEqual({ touches: 60, segments: 1 });
    expect(dueOf({ touches: [], segments: [] }, BEGIN)).toEqual(NOTHING_ASKED);
  });
});
