import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Digest } from './brands.js';
import { decodeDiskUse, encodeDiskUse } from './disk-use.js';
import { mergeUses } from './merge-uses.js';
import { type UseRecord, USE_TOUCHES_MAX } from './use-record.js';

const BOOT = [1, 2, 3];
const recordOf = (...bursts: readonly (readonly number[])[]): UseRecord => ({
  version: 3,
  root: 'ab'.repeat(32) as Digest,
  blockBytes: 65_536,
  bursts: [BOOT, ...bursts],
});
const groupsOf = (...records: readonly UseRecord[]): (readonly number[])[] =>
  mergeUses(records).groups.map(({ blocks }) => blocks);

const EDITOR = [10, 11, 12, 13];
const BROWSER = [20, 25, 21, 22, 23, 24];

describe('how many sessions touch a block', () => {
  it('counts boots and what came later, and leaves out what one alone has', () => {
    const { records, blocks } = mergeUses([recordOf(EDITOR, [99]), recordOf([13, 50]), recordOf([50], [98])]);
    expect(records).toBe(3);
    expect(blocks).toEqual([
      ...BOOT.map((blockIndex) => ({ blockIndex, records: 3 })),
      { blockIndex: 13, records: 2 },
      { blockIndex: 50, records: 2 },
    ]);
  });

  it('is not told of one session', () => {
    expect(mergeUses([recordOf(EDITOR)])).toMatchObject({ records: 1, blocks: [], groups: [] });
  });
});

describe('groups', () => {
  it('are what several sessions touched together, in its usual order', () => {
    expect(groupsOf(recordOf(EDITOR, BROWSER), recordOf(BROWSER, EDITOR))).toEqual([EDITOR, BROWSER]);
    expect(groupsOf(recordOf(EDITOR), recordOf([13, 12, 11, 10]), recordOf(EDITOR))).toEqual([EDITOR]);
  });

  it('begin with at most half of them, and four, as triggers', () => {
    const { groups } = mergeUses([recordOf(EDITOR, BROWSER, [30, 31]), recordOf(EDITOR, BROWSER, [30, 31])]);
    expect(groups.map(({ triggers }) => triggers)).toEqual([2, 3, 1]);
    const long = Array.from({ length: 40 }, (_none, at) => 100 + at);
    expect(mergeUses([recordOf(long), recordOf(long)]).groups.map(({ triggers }) => triggers)).toEqual([4]);
  });

  it('are as they were beside one session that mixed everything, left things out, or touched something else', () => {
    const usual = [recordOf(EDITOR, BROWSER), recordOf(BROWSER, EDITOR)];
    for (const strange of [
      recordOf([...BROWSER, ...EDITOR].reverse()),
      recordOf([10], [11], [12], [13]),
      recordOf([10, 20], [11, 21]),
      recordOf([70, 71, 72]),
      { ...recordOf(), bursts: [[...EDITOR, ...BROWSER]] },
    ]) {
      const blocks = groupsOf(...usual, strange);
      expect(blocks.map((group) => new Set(group))).toEqual([new Set(EDITOR), new Set(BROWSER)]);
    }
  });

  it('have no block that goes with two applications, nor one that is touched with something else each time', () => {
    const shared = 77;
    const records = [
      recordOf([...EDITOR, shared]),
      recordOf([...EDITOR, shared]),
      recordOf([...BROWSER, shared]),
      recordOf([...BROWSER, shared]),
    ];
    expect(groupsOf(...records).flat()).not.toContain(shared);
    expect(groupsOf(recordOf([5, 6]), recordOf([5, 7]), recordOf([5, 8]))).toEqual([]);
  });

  it('have what a session uses again and again in one application that few use', () => {
    const others = Array.from({ length: 9 }, () => recordOf(BROWSER));
    expect(groupsOf(...others, recordOf(EDITOR), recordOf(EDITOR))).toEqual([BROWSER, EDITOR]);
  });

  it('leave out what is part of most boots', () => {
    const early = { ...recordOf(), bursts: [[1, 10, 11], [12]] };
    expect(groupsOf(early, early, early, recordOf(EDITOR), recordOf(EDITOR)).flat()).not.toContain(10);
  });
});

describe('merged use', () => {
  it('is refused of none, and of different disks', () => {
    expect(() => mergeUses([])).toThrow(/no use record/);
    expect(() => mergeUses([recordOf(), { ...recordOf(), root: 'cd'.repeat(32) as Digest }])).toThrow(/cdcd/);
    expect(() => mergeUses([recordOf(), { ...recordOf(), blockBytes: 4_096 }])).toThrow(/among/);
  });

  it('of any sessions can be written and read, and does not depend on their order', () => {
    const session = fc.tuple(
      fc.uniqueArray(fc.nat(40), { minLength: 1, maxLength: 30 }),
      fc.integer({ min: 1, max: 9 }),
    );
    fc.assert(
      fc.property(fc.array(session, { minLength: 1, maxLength: 6 }), (sessions) => {
        const records = sessions.map(([blocks, each]): UseRecord => ({
          ...recordOf(),
          bursts: Array.from({ length: Math.ceil(blocks.length / each) }, (_none, at) =>
            blocks.slice(at * each, (at + 1) * each),
          ),
        }));
        const merged = mergeUses(records);
        expect(decodeDiskUse(encodeDiskUse(merged))).toEqual(merged);
        expect(mergeUses([...records].reverse())).toEqual(merged);
        for (const { blocks } of merged.groups)
          for (const block of blocks)
            expect(records.filter(({ bursts }) => bursts.flat().includes(block)).length).toBeGreaterThan(1);
      }),
    );
  });

  it('of the most and the strangest that there can be is bounded', () => {
    // Of each record other halves of the blocks lie together: many leaders, of which none has all.
    const records = Array.from({ length: 32 }, (_none, record): UseRecord => {
      const bursts: number[][] = [[2 ** 20]];
      for (let part = 0; part < 32; part += 1) {
        const burst: number[] = [];
        for (let at = 0; at < USE_TOUCHES_MAX / 32 - 1; at += 1)
          burst.push((at * 32 + ((part + at * record) % 32)) | 0);
        bursts.push(burst);
      }
      return { ...recordOf(), bursts };
    });
    const merged = mergeUses(records);
    expect(decodeDiskUse(encodeDiskUse(merged))).toEqual(merged);
  });
});
