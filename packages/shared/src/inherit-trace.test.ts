import { describe, expect, it } from 'vitest';
import { type Digest } from './brands.js';
import { sha256 } from './digest.js';
import { DiskMap } from './disk-map.js';
import type { DiskUse } from './disk-use.js';
import { inheritTrace, inheritUse } from './inherit-trace.js';
import type { BootTrace } from './trace.js';

const BLOCK = 65_536;
const root = 'cd'.repeat(32) as Digest;

/** Of each block a number for what is in it; 0: all zero. */
const mapOf = (contents: readonly number[]): DiskMap => {
  const map = DiskMap.empty({ diskBytes: contents.length * BLOCK, blockBytes: BLOCK });
  contents.forEach((content, index) => {
    if (content !== 0) map.set(index, { kind: 'public', digest: sha256(Buffer.from(String(content))) });
  });
  return map;
};
const traceOf = (blocks: readonly number[]): BootTrace => ({
  version: 1,
  root: 'ab'.repeat(32) as Digest,
  blockBytes: BLOCK,
  touches: blocks.map((blockIndex, at) => ({ blockIndex, afterMs: at, phase: 0, chunkBytes: 0 })),
});
const inherited = (blocks: readonly number[], from: readonly number[], to: readonly number[]): number[] =>
  inheritTrace(traceOf(blocks), mapOf(from), { map: mapOf(to), version: 2, root }).touches.map(
    ({ blockIndex }) => blockIndex,
  );

describe('an inherited trace', () => {
  it('is of the new version, in the order of the old one', () => {
    const trace = inheritTrace(traceOf([3, 0, 2]), mapOf([1, 2, 3, 4]), { map: mapOf([1, 2, 3, 4]), version: 2, root });
    expect(trace).toEqual({ ...traceOf([3, 0, 2]), version: 2, root });
  });

  it('follows a block to where it lies now', () => {
    expect(inherited([1, 0], [1, 2, 3, 0], [1, 9, 3, 2])).toEqual([3, 0]);
  });

  it('keeps the place of a block that has changed', () => {
    expect(inherited([1, 0], [1, 2], [1, 9])).toEqual([1, 0]);
  });

  it('leaves out what is all zero now, or not there any more, and names no block twice', () => {
    expect(inherited([0, 1, 2], [1, 2, 3], [0, 2])).toEqual([1]);
    // Block 0 lies at 1 now, where block 1 was, whose content is gone.
    expect(inherited([0, 1], [1, 2, 3], [7, 1, 3])).toEqual([1]);
  });

  it('finds what has changed by the files that lay there', () => {
    const byFile = new Map([
      [0, [3]],
      [1, [1, 4]],
      [2, []],
    ]);
    const of = (blocks: readonly number[], from: readonly number[], to: readonly number[]): number[] =>
      inheritTrace(traceOf(blocks), mapOf(from), { map: mapOf(to), version: 2, root, byFile }).touches.map(
        ({ blockIndex }) => blockIndex,
      );
    expect(of([0, 1, 2, 3], [1, 2, 3, 4, 0], [9, 8, 7, 6, 5])).toEqual([3, 1, 4]);
    // Block 0 is what a file that was deleted has left, in block 1 a file is still there.
    expect(of([1, 0], [1, 2, 3, 4, 0], [1, 2, 3, 6, 5])).toEqual([1, 3]);
    expect(of([0], [1, 2, 3, 4], [9, 8, 7, 0])).toEqual([]);
  });

  it('leaves a block where it is although another one has the same content', () => {
    expect(inherited([2], [5, 0, 5], [5, 0, 5])).toEqual([2]);
  });
});

describe('inherited use', () => {
  const use: DiskUse = {
    version: 1,
    root: 'ab'.repeat(32) as Digest,
    blockBytes: BLOCK,
    records: 5,
    blocks: [
      { blockIndex: 2, records: 5 },
      { blockIndex: 0, records: 3 },
      { blockIndex: 1, records: 3 },
    ],
    groups: [
      { blocks: [0, 1, 3], triggers: 1 },
      { blocks: [4, 2], triggers: 1 },
    ],
  };
  const heirOf = (to: readonly number[], byFile?: ReadonlyMap<number, readonly number[]>): DiskUse =>
    inheritUse(use, mapOf([1, 2, 3, 4, 5]), {
      ...{ map: mapOf(to), version: 2, root },
      ...(byFile === undefined ? {} : { byFile }),
    });

  it('follows blocks to where they lie now, and keeps the place of those that have changed', () => {
    expect(heirOf([9, 3, 2, 4, 5])).toEqual({
      ...use,
      ...{ version: 2, root },
      blocks: [
        { blockIndex: 1, records: 5 },
        { blockIndex: 0, records: 3 },
        { blockIndex: 2, records: 3 },
      ],
      groups: [
        { blocks: [0, 2, 3], triggers: 1 },
        { blocks: [4, 1], triggers: 1 },
      ],
    });
  });

  it('follows files where it is known which lay there', () => {
    expect(heirOf([9, 2, 3, 4, 5, 8], new Map([[0, [5]]])).groups[0]).toEqual({ blocks: [5, 1, 3], triggers: 1 });
  });

  it('has no group whose triggers are gone, or that has nothing to follow them, and no block without content', () => {
    const { blocks, groups } = heirOf([0, 2, 0, 4, 5]);
    expect(blocks).toEqual([{ blockIndex: 1, records: 3 }]);
    expect(groups).toEqual([]);
  });

  it('names a block once where two have become one', () => {
    const { blocks, groups } = heirOf([7, 1, 3, 4, 5]);
    expect(blocks).toEqual([
      { blockIndex: 2, records: 5 },
      { blockIndex: 1, records: 3 },
    ]);
    expect(groups[0]).toEqual({ blocks: [1, 3], triggers: 1 });
  });
});
