import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Digest } from './brands.js';
import { mergeTraces } from './merge-traces.js';
import { type BootTrace, decodeBootTrace, encodeBootTrace, TRACE_TOUCHES_MAX } from './trace.js';

const traceOf = (blocks: readonly number[], { everyMs = 10 } = {}): BootTrace => ({
  version: 3,
  root: 'ab'.repeat(32) as Digest,
  blockBytes: 65_536,
  touches: blocks.map((blockIndex, at) => ({ blockIndex, afterMs: at * everyMs, phase: 1, chunkBytes: 0 })),
});
const blocksOf = (trace: BootTrace): number[] => trace.touches.map(({ blockIndex }) => blockIndex);

describe('merged traces', () => {
  it('of one boot are that boot', () => {
    const trace = traceOf([5, 3, 9]);
    expect(mergeTraces([trace])).toEqual(trace);
  });

  it('leave out what half of the boots or fewer touched', () => {
    expect(blocksOf(mergeTraces([traceOf([1, 2, 7]), traceOf([1, 2])]))).toEqual([1, 2]);
    expect(blocksOf(mergeTraces([traceOf([1, 2, 7]), traceOf([1, 2, 7]), traceOf([1, 8])]))).toEqual([1, 2, 7]);
  });

  it('have the usual order though one boot went another way', () => {
    const usual = [10, 11, 12, 13, 14, 15];
    const merged = mergeTraces([traceOf(usual), traceOf([15, 14, 13, 12, 11, 10]), traceOf(usual)]);
    expect(blocksOf(merged)).toEqual(usual);
  });

  it('do not care that one machine is ten times as slow', () => {
    const merged = mergeTraces([traceOf([1, 2, 3, 4]), traceOf([1, 2, 3, 4], { everyMs: 100 }), traceOf([1, 2, 3, 4])]);
    expect(merged.touches.map(({ afterMs }) => afterMs)).toEqual([0, 10, 20, 30]);
  });

  it('refuse none, and traces of different disks', () => {
    expect(() => mergeTraces([])).toThrow(/no trace/);
    expect(() => mergeTraces([traceOf([1]), { ...traceOf([1]), root: 'cd'.repeat(32) as Digest }])).toThrow(/cdcd/);
    expect(() => mergeTraces([traceOf([1]), { ...traceOf([1]), blockBytes: 4096 }])).toThrow(/among/);
  });

  it('of boots that agree two by two are no longer than a trace may be', () => {
    const third = (from: number) => Array.from({ length: TRACE_TOUCHES_MAX / 2 }, (_, at) => from + at);
    const [one, two, three] = [third(0), third(100_000), third(200_000)];
    const merged = mergeTraces([traceOf([...one, ...two]), traceOf([...two, ...three]), traceOf([...three, ...one])]);
    expect(decodeBootTrace(encodeBootTrace(merged)).touches).toHaveLength(TRACE_TOUCHES_MAX);
  });

  it('of any boots are a trace that can be written and read, of blocks that most of them touched', () => {
    const boot = fc.uniqueArray(fc.nat(40), { maxLength: 20 });
    fc.assert(
      fc.property(fc.array(boot, { minLength: 1, maxLength: 6 }), (boots) => {
        const merged = mergeTraces(boots.map((blocks) => traceOf(blocks)));
        expect(decodeBootTrace(encodeBootTrace(merged))).toEqual(merged);
        const counted = new Map<number, number>();
        for (const block of boots.flat()) counted.set(block, (counted.get(block) ?? 0) + 1);
        const usual = [...counted].filter(([, count]) => count * 2 > boots.length).map(([block]) => block);
        expect(new Set(blocksOf(merged))).toEqual(new Set(usual));
      }),
    );
  });
});
