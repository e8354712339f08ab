import { describe, expect, it } from 'vitest';
import { planReadahead, type Stream } from './readahead-plan.js';

const BLOCK = 65_536;

/** Plays block reads against the plan: what is fetched in advance, and which reads had to wait for a fetch of their own. */
const play = (reads: readonly number[], blockCount = 1000) => {
  let streams: readonly Stream[] = [];
  const here = new Set<number>();
  const marks = new Set<number>();
  let misses = 0;
  let warmed = 0;
  for (const block of reads) {
    const isMiss = !here.has(block);
    const isMark = marks.delete(block);
    if (isMiss) misses += 1;
    if (isMiss || isMark) {
      const step = planReadahead(streams, { firstBlock: block, endBlock: block + 1, blockBytes: BLOCK, blockCount });
      streams = step.streams;
      for (let ahead = step.fromBlock; ahead < step.toBlock; ahead += 1) {
        if (!here.has(ahead)) warmed += 1;
        here.add(ahead);
      }
      if (step.markBlock !== undefined) marks.add(step.markBlock);
    }
    here.add(block);
  }
  return { misses, warmed, streams };
};

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, at) => from + at);

describe('readahead plan', () => {
  it('fetches a sequential stream in advance after its second block, without a further miss', () => {
    const played = play(range(100, 400));
    expect(played.misses).toBe(2);
    expect(played.warmed).toBeLessThanOrEqual(298 + 32);
  });

  it('never fetches more in vain than twice what was read of the stream, nor more than 2 MiB', () => {
    for (let length = 1; length < 200; length += 1) {
      const { warmed } = play(range(0, length));
      const inVain = warmed - Math.max(0, length - 2);
      expect(inVain, `a stream of ${length}`).toBeLessThanOrEqual(Math.min(32, Math.max(4, 2 * length)));
    }
  });

  it('fetches nothing in advance for random reads', () => {
    let random = 5;
    const reads = range(0, 500).map(() => (random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0) % 1_000_000);
    expect(play(reads, 1_000_000).warmed).toBeLessThan(20);
  });

  it('follows several streams at the same time', () => {
    const reads = range(0, 100).flatMap((step) => [step, 300 + step, 600 + step]);
    expect(play(reads).misses).toBe(6);
  });

  it('stops at the end of the disk', () => {
    const { streams, misses } = play(range(950, 1000));
    expect(misses).toBe(2);
    expect(Math.max(...streams.map((stream) => stream.aheadEnd))).toBe(1000);
  });

  it('does not take a block that is read twice for a stream', () => {
    expect(play([5, 5, 5, 5]).warmed).toBe(0);
    const streams: readonly Stream[] = [{ nextBlock: 6, aheadEnd: 6, windowBlocks: 0, markBlock: 6 }];
    const step = planReadahead(streams, { firstBlock: 5, endBlock: 6, blockBytes: BLOCK, blockCount: 100 });
    expect(step.toBlock).toBe(step.fromBlock);
  });

  it('remembers a bounded number of streams', () => {
    expect(
      play(
        range(0, 500).map((step) => step * 50),
        100_000,
      ).streams.length,
    ).toBe(8);
  });
});
