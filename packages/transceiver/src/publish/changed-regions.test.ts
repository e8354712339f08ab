import { describe, expect, it } from 'vitest';
import { changedRegions, describeChanges } from './changed-regions.js';

const changes = (blocks: readonly number[], diskBytes = 100 * 65_536) => ({
  blockIndexes: Uint32Array.from(blocks),
  blockBytes: 65_536,
  diskBytes,
});

describe('changed regions', () => {
  it('are runs of neighbouring blocks, and end with the disk', () => {
    expect(changedRegions(changes([]))).toEqual([]);
    expect(changedRegions(changes([0, 1, 5, 7, 8]))).toEqual([
      { byteOffset: 0, byteLength: 131_072 },
      { byteOffset: 5 * 65_536, byteLength: 65_536 },
      { byteOffset: 7 * 65_536, byteLength: 131_072 },
    ]);
    expect(changedRegions(changes([9], 9 * 65_536 + 512))).toEqual([{ byteOffset: 9 * 65_536, byteLength: 512 }]);
  });

  it('are told with their places; of many the largest', () => {
    expect(describeChanges('system', changes([0, 1, 16]))).toBe(
      'Disk system: 3 blocks changed, 0.19 MiB in 2 regions (MiB: 0.00–0.13, 1.00–1.06).',
    );
    const many = Array.from({ length: 20 }, (_none, at) => at * 3).concat([70, 71]);
    const text = describeChanges('system', changes(many));
    expect(text).toContain('21 regions');
    expect(text).toContain('4.38–4.50');
    expect(text).toContain('and 9 smaller ones');
  });
});
