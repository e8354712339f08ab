/**
 * Sequential readahead as a pure plan over a few remembered streams.
 *
 * A read that goes on where a stream ended, and had to be fetched, makes the stream's window double, from 256 KiB to
 * 2 MiB; so what is fetched in vain at the end of a stream is never more than twice what was read of it. In the middle of each
 * window lies a mark: the read that touches it asks for the next window, so that the line stays full although no read misses
 * any more. (Firmware and boot loader read kernel and initrd, 20 MB and more, in small reads one after the other.)
 */
export const READAHEAD = {
  firstBytes: 256 << 10,
  maxBytes: 2 << 20,
  streamsMax: 8,
} as const;

export type Stream = {
  /** The block that goes on with the stream. */
  readonly nextBlock: number;
  /** The end of what has been asked for (exclusive). */
  readonly aheadEnd: number;
  readonly windowBlocks: number;
  /** Touching a block at or after this one asks for more. */
  readonly markBlock: number;
};

export type ReadaheadStep = {
  /** Most recently used first. */
  readonly streams: readonly Stream[];
  /** Blocks to warm: from, to (exclusive). Empty when equal. */
  readonly fromBlock: number;
  readonly toBlock: number;
  /** The block whose touch is to be reported as `isMark`. */
  readonly markBlock: number | undefined;
};

export type Touch = {
  readonly firstBlock: number;
  /** Exclusive. */
  readonly endBlock: number;
  readonly blockBytes: number;
  readonly blockCount: number;
};

/** What a read that missed, or that touched a mark, leads to. */
export const planReadahead = (streams: readonly Stream[], touch: Touch): ReadaheadStep => {
  const { firstBlock, endBlock, blockBytes, blockCount } = touch;
  const known = streams.find((each) => firstBlock >= each.nextBlock - 1 && firstBlock <= each.aheadEnd);
  const others = streams.filter((each) => each !== known).slice(0, READAHEAD.streamsMax - 1);
  const nothingToWarm = { fromBlock: endBlock, toBlock: endBlock, markBlock: undefined };
  if (known === undefined) {
    // A first read: remember it, fetch nothing in advance.
    const fresh: Stream = { nextBlock: endBlock, aheadEnd: endBlock, windowBlocks: 0, markBlock: endBlock };
    return { streams: [fresh, ...others], ...nothingToWarm };
  }
  if (endBlock <= known.nextBlock) return { streams: [known, ...others], ...nothingToWarm }; // the same block again
  if (endBlock <= known.markBlock) {
    // Inside what has been asked for and has not arrived: the guest is faster than the line, which is full already.
    return { streams: [{ ...known, nextBlock: endBlock }, ...others], ...nothingToWarm };
  }
  const firstWindow = Math.max(1, READAHEAD.firstBytes / blockBytes);
  const windowBlocks =
    known.windowBlocks === 0
      ? firstWindow
      : Math.min(known.windowBlocks * 2, Math.max(1, READAHEAD.maxBytes / blockBytes));
  const fromBlock = Math.min(blockCount, Math.max(known.aheadEnd, endBlock));
  const toBlock = Math.min(blockCount, Math.max(fromBlock, endBlock + windowBlocks));
  const markBlock = Math.max(endBlock, toBlock - Math.ceil(windowBlocks / 2));
  const grown: Stream = { nextBlock: endBlock, aheadEnd: toBlock, windowBlocks, markBlock };
  return { streams: [grown, ...others], fromBlock, toBlock, markBlock: markBlock < toBlock ? markBlock : undefined };
};
