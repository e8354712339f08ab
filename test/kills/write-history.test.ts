import { expect, test } from 'vitest';
import { Random } from '../simulation/random.js';
import { BLOCK_BYTES, BLOCKS_PER_GENERATION, WriteHistory } from './write-history.js';

const history = new WriteHistory(1);
const copyBlock = (from: Buffer, to: Buffer, block: number): void =>
  void from.copy(to, block * BLOCK_BYTES, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
/** Where two states differ. */
const changed = (a: Buffer, b: Buffer): number[] =>
  Array.from({ length: a.length / BLOCK_BYTES }, (_, block) => block).filter(
    (block) =>
      !a
        .subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
        .equals(b.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)),
  );

test('a state is recognised by its bytes, however long the history', () => {
  const random = new Random(7);
  for (const writes of [
    0,
    1,
    7,
    8,
    9,
    2_047,
    2_048,
    2_049,
    100_003,
    ...Array.from({ length: 10 }, () => random.int(50_000)),
  ])
    expect(history.judge(history.imageAfter(writes))).toBe(writes);
});

test('a write that was lost, whole generations that were, one that came too early, foreign bytes and mixed moments are found', () => {
  const [before, after] = [history.imageAfter(20_000), history.imageAfter(20_000 + 3 * BLOCKS_PER_GENERATION)];
  const blocks = changed(before, after);
  expect(blocks.length).toBeGreaterThan(BLOCKS_PER_GENERATION);
  // Of any block of the last three generations the older content, but the very last one.
  const right = history.imageAfter(20_000 + 3 * BLOCKS_PER_GENERATION);
  let found = 0;
  for (const block of blocks) {
    const image = Buffer.from(right);
    copyBlock(before, image, block);
    try {
      expect(history.judge(image)).toBe(20_000 + 3 * BLOCKS_PER_GENERATION - 1);
    } catch {
      found += 1;
    }
  }
  expect(found).toBe(blocks.length - 1);
  // One that is of later.
  for (const block of blocks.slice(BLOCKS_PER_GENERATION)) {
    const image = Buffer.from(before);
    copyBlock(after, image, block);
    expect(() => history.judge(image)).toThrow(/no state of the first/);
  }
  const [some = 0] = blocks;
  const foreign = Buffer.from(right);
  foreign.writeUInt8(foreign.readUInt8(some * BLOCK_BYTES + 100) ^ 1, some * BLOCK_BYTES + 100);
  expect(() => history.judge(foreign)).toThrow(/foreign/);
});

test('the write that was under way may be torn between sectors; any other may not', () => {
  const [before, after] = [history.imageAfter(500), history.imageAfter(501)];
  const [block = 0] = changed(before, after);
  const torn = Buffer.from(before);
  after.copy(torn, block * BLOCK_BYTES, block * BLOCK_BYTES, block * BLOCK_BYTES + 1_536);
  expect(history.judge(torn)).toBe(500);
  const inSector = Buffer.from(before);
  after.copy(inSector, block * BLOCK_BYTES, block * BLOCK_BYTES, block * BLOCK_BYTES + 1_500);
  expect(() => history.judge(inSector)).toThrow(/foreign/);
  const earlier = history.imageAfter(510);
  before.copy(earlier, block * BLOCK_BYTES, block * BLOCK_BYTES, block * BLOCK_BYTES + 512);
  expect(() => history.judge(earlier)).toThrow(/foreign/);
});
