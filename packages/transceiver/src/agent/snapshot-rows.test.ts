import { expect, test } from 'vitest';
import { snapshotRows } from './snapshot-rows.js';

const row = (number: number) => ({
  ...{ number, createdAt: 1, committedAt: 2, reason: 'stop' as const },
  ...{ addedBytes: 3, pinned: false, deletedAt: null },
});
const heads = (numbers: readonly number[], which: 'kept' | 'deleted'): readonly number[] =>
  snapshotRows(numbers.map(row), which).flatMap(({ number, isHead }) => (isHead ? [number] : []));

// Seen with two devices: the one that had not caught up yet called its own older state the newest, below a newer one of the other.
test('the head is the last snapshot on the server, whatever lies on this device', () => {
  expect(heads([3, 2, 1], 'kept')).toEqual([3]);
  expect(heads([1, 7, 3], 'kept')).toEqual([7]);
});

test('none is among those that were deleted, and none where there are no snapshots', () => {
  expect(heads([2, 1], 'deleted')).toEqual([]);
  expect(heads([], 'kept')).toEqual([]);
});
