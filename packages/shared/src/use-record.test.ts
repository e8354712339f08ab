import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Digest } from './brands.js';
import {
  BURST_REST_MS,
  burstsOf,
  decodeUseRecord,
  encodeUseRecord,
  USE_RECORD_BYTES_MAX,
  USE_TOUCHES_MAX,
  type UseRecord,
} from './use-record.js';

const recordOf = (...bursts: readonly (readonly number[])[]): UseRecord => ({
  version: 3,
  root: 'ab'.repeat(32) as Digest,
  blockBytes: 65_536,
  bursts,
});
/** `[block, when]` of each touch. */
const touchesOf = (...touches: readonly (readonly [number, number])[]) =>
  touches.map(([blockIndex, afterMs]) => ({ blockIndex, afterMs }));

describe('bursts', () => {
  it('end where nothing was touched for a while; the boot is the first, however long it rested', () => {
    const rest = BURST_REST_MS;
    const touches = touchesOf([5, 0], [6, 2 * rest], [7, 9 * rest], [8, 9 * rest + 1], [9, 10 * rest], [1, 11 * rest]);
    expect(burstsOf(touches, 2)).toEqual([[5, 6], [7, 8, 9], [1]]);
    expect(burstsOf(touches, 6)).toEqual([[5, 6, 7, 8, 9, 1]]);
    expect(burstsOf([], 0)).toEqual([]);
  });

  it('of an application that is started at once after the boot are not the boot', () => {
    expect(burstsOf(touchesOf([5, 0], [6, 1], [7, 2]), 1)).toEqual([[5], [6, 7]]);
  });

  it('are no more than a record may have', () => {
    const touches = Array.from({ length: USE_TOUCHES_MAX + 5 }, (_none, at) => ({
      blockIndex: at,
      afterMs: at * BURST_REST_MS,
    }));
    const bytes = encodeUseRecord(recordOf(...burstsOf(touches, 1)));
    expect(bytes).toHaveLength(USE_RECORD_BYTES_MAX);
    expect(decodeUseRecord(bytes).bursts).toHaveLength(USE_TOUCHES_MAX);
  });
});

describe('a use record', () => {
  it('of any bursts can be written and read', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(50), { minLength: 1, maxLength: 40 }),
        fc.uniqueArray(fc.nat(2 ** 32 - 1)),
        (cuts, all) => {
          const bursts: number[][] = [];
          for (let at = 0, cut = 0; at < all.length; cut += 1) {
            const length = 1 + (cuts[cut % cuts.length] ?? 0);
            bursts.push(all.slice(at, at + length));
            at += length;
          }
          expect(decodeUseRecord(encodeUseRecord(recordOf(...bursts)))).toEqual(recordOf(...bursts));
        },
      ),
    );
  });

  it('has each block once, and no empty burst', () => {
    const decode = (...bursts: number[][]) => decodeUseRecord(encodeUseRecord(recordOf(...bursts)));
    expect(() => decode([1], [2, 1])).toThrow(/block 1 is there twice/);
    expect(() => decode([1, 3], [], [2])).toThrow(/burst 1 is empty/);
    expect(() => decode([1], [], [2])).toThrow(/3 bursts do not fit/);
  });

  it('has as many touches as it says, not more than a record may, and of blocks that exist', () => {
    const bytes = encodeUseRecord(recordOf([1, 2], [3]));
    const changed = (at: number, word: number): Buffer => {
      const copy = Buffer.from(bytes);
      copy.writeUInt32LE(word, at);
      return copy;
    };
    expect(() => decodeUseRecord(changed(48, 3))).toThrow(/4 touches, of which 3/);
    expect(() => decodeUseRecord(changed(44, 2 ** 32 - 1))).toThrow(/do not fit/);
    expect(() => decodeUseRecord(changed(40, 65_537))).toThrow(/do not exist/);
    const many = Array.from({ length: USE_TOUCHES_MAX + 1 }, (_none, at) => at);
    expect(() => encodeUseRecord(recordOf(many))).toThrow(/at most 16384/);
    expect(() => decodeUseRecord(Buffer.alloc(USE_RECORD_BYTES_MAX + 8, bytes.subarray(0, 48)))).toThrow(/use record/);
  });
});
