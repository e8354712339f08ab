import { describe, expect, it } from 'vitest';
import type { Digest } from './brands.js';
import {
  type BlockGroup,
  decodeDiskUse,
  DISK_USE_BYTES_MAX,
  type DiskUse,
  encodeDiskUse,
  GROUPED_BLOCKS_MAX,
  GROUPS_MAX,
  USED_BLOCKS_MAX,
  type UsedBlock,
  usualBlocks,
} from './disk-use.js';

const useOf = (blocks: readonly UsedBlock[], groups: readonly BlockGroup[] = [], records = 9): DiskUse => ({
  ...{ version: 3, root: 'ab'.repeat(32) as Digest, blockBytes: 65_536 },
  ...{ records, blocks, groups },
});
/** `[block, records]` of each. */
const counted = (...blocks: readonly (readonly [number, number])[]): UsedBlock[] =>
  blocks.map(([blockIndex, records]) => ({ blockIndex, records }));
const decode = (use: DiskUse): DiskUse => decodeDiskUse(encodeDiskUse(use));
const range = (from: number, length: number): number[] => Array.from({ length }, (_none, at) => from + at);

describe('a disk use', () => {
  it('has what most sessions touch first', () => {
    const use = useOf(counted([7, 9], [1, 4], [3, 4], [2, 2]));
    expect(decode(use)).toEqual(use);
    for (const blocks of [counted([7, 4], [1, 9]), counted([3, 4], [1, 4]), counted([3, 4], [3, 3])])
      expect(() => decode(useOf(blocks))).toThrow(/out of order/);
    expect(() => decode(useOf(counted([7, 10])))).toThrow(/out of order/);
    expect(() => decode(useOf(counted([7, 0])))).toThrow(/out of order/);
  });

  it('has groups with a trigger and what follows it, each block in one', () => {
    const use = useOf(
      [],
      [
        { blocks: [9, 3, 4], triggers: 2 },
        { blocks: [1, 2], triggers: 1 },
      ],
    );
    expect(decode(use)).toEqual(use);
    expect(() => decode(useOf([], [{ blocks: [9, 3], triggers: 0 }]))).toThrow(/0 triggers among 2/);
    expect(() => decode(useOf([], [{ blocks: [9, 3], triggers: 2 }]))).toThrow(/2 triggers among 2/);
    expect(() => decode(useOf([], [...use.groups, { blocks: [7, 4], triggers: 1 }]))).toThrow(/block 4 is in a group/);
  });

  it('is bounded, and may be as long as that', () => {
    const each = GROUPED_BLOCKS_MAX / GROUPS_MAX;
    const most = useOf(
      range(0, USED_BLOCKS_MAX).map((blockIndex) => ({ blockIndex, records: 2 })),
      range(0, GROUPS_MAX).map((group) => ({ blocks: range(group * each, each), triggers: 4 })),
    );
    expect(encodeDiskUse(most)).toHaveLength(DISK_USE_BYTES_MAX);
    expect(decode(most)).toEqual(most);
    expect(() => encodeDiskUse({ ...most, blocks: [...most.blocks, { blockIndex: 2 ** 20, records: 2 }] })).toThrow(
      /at most 32768/,
    );
    const long = encodeDiskUse(useOf([], [{ blocks: [9, 3], triggers: 1 }]));
    long.writeUInt32LE(GROUPED_BLOCKS_MAX + 1, 60);
    expect(() => decodeDiskUse(long)).toThrow(/of 16384/);
    const longer = encodeDiskUse(useOf([]));
    longer.writeUInt32LE(USED_BLOCKS_MAX + 1, 48);
    expect(() => decodeDiskUse(longer)).toThrow(/at most 32768/);
  });
});

describe('usual blocks', () => {
  it('are what two records have, and an eighth of them, in the order of how many', () => {
    expect(usualBlocks(useOf(counted([7, 2], [1, 1]), [], 3))).toEqual([7]);
    expect(usualBlocks(useOf(counted([5, 20], [7, 4], [6, 3]), [], 32))).toEqual([5, 7]);
    expect(usualBlocks(useOf(counted([5, 1]), [], 1))).toEqual([]);
  });
});
