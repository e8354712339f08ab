import { describe, expect, it } from 'vitest';
import type { DiskFile } from './ext4-files.js';
import { filePlaces } from './file-places.js';

const K = 1024;
const blockBytes = 64 * K;
/** A file in one piece. */
const file = (path: string, diskKiB: number, lengthKiB: number): DiskFile => ({
  path,
  pieces: [{ fileOffset: 0, diskOffset: diskKiB * K, byteLength: lengthKiB * K }],
});
const places = (from: readonly DiskFile[], to: readonly DiskFile[], blocks: readonly number[]): unknown =>
  Object.fromEntries(filePlaces(from, to, { blocks, blockBytes }));

describe('places by file', () => {
  it('follow the same part of a file to where it lies now, whatever pieces it is in', () => {
    const now: DiskFile = {
      path: 'a',
      pieces: [
        { fileOffset: 0, diskOffset: 640 * K, byteLength: 96 * K },
        { fileOffset: 96 * K, diskOffset: 0, byteLength: 96 * K },
      ],
    };
    expect(places([file('a', 64, 192)], [now], [3, 1, 2])).toEqual({ 1: [10], 2: [0, 11], 3: [0, 1] });
  });

  it('are those of all files of a block; a block without a file has none, one whose files are gone an empty list', () => {
    const from = [file('a', 0, 16), file('b', 16, 16), file('gone', 64, 4)];
    expect(places(from, [file('a', 0, 16), file('b', 128, 16)], [0, 1, 2])).toEqual({ 0: [0, 2], 1: [] });
  });

  it('follow a path that differs in numbers only, when the old one is gone and one alone fits', () => {
    const from = [file('boot/vmlinuz-6.1.0-18-amd64', 0, 64)];
    expect(places(from, [file('boot/vmlinuz-6.1.0-20-amd64', 640, 64)], [0])).toEqual({ 0: [10] });
    const two = [file('boot/vmlinuz-6.1.0-20-amd64', 640, 64), file('boot/vmlinuz-6.1.0-21-amd64', 704, 64)];
    expect(places(from, two, [0])).toEqual({ 0: [] });
  });

  it('tell files of a renamed folder apart by their own names', () => {
    const from = [file('modules/6.1.0-18/crc7.ko', 0, 64), file('modules/6.1.0-18/crc8.ko', 64, 64)];
    const to = [file('modules/6.1.0-20/crc7.ko', 640, 64), file('modules/6.1.0-20/crc8.ko', 704, 64)];
    expect(places(from, to, [0, 1])).toEqual({ 0: [10], 1: [11] });
  });

  it('go to a later one that came beside an old file, not to an earlier one', () => {
    const from = [file('vmlinuz-6.1.9', 0, 64)];
    expect(places(from, [...from, file('vmlinuz-6.1.10', 640, 64)], [0])).toEqual({ 0: [10] });
    expect(places(from, [...from, file('vmlinuz-6.1.8', 640, 64)], [0])).toEqual({ 0: [0] });
  });

  it('end, whatever the files are said to be', () => {
    const pieces = Array.from({ length: 20_000 }, () => ({ fileOffset: 0, diskOffset: 0, byteLength: 2 ** 27 }));
    const blocks = Array.from({ length: 2048 }, (_none, at) => at);
    const found = filePlaces([{ path: 'a', pieces }], [{ path: 'a', pieces }], { blocks, blockBytes });
    expect(found.size).toBeLessThanOrEqual(2048);
  });
});
