/**
 * Disks whose contents say where they belong: each 8 bytes of a block are the seed and their own offset, so that a byte in the
 * wrong place is seen. Every seventh block is zero.
 */
import { DiskMap, blockDigest, encodeChunk, type Digest } from '@collective/shared';

export type TestDisk = {
  readonly bytes: Buffer;
  readonly map: DiskMap;
  readonly root: Digest;
  readonly chunks: ReadonlyMap<Digest, Buffer>;
  readonly blocks: ReadonlyMap<Digest, Buffer>;
};

export const patternBlock = (options: {
  readonly seed: number;
  readonly blockIndex: number;
  readonly blockBytes: number;
}): Buffer => {
  const block = Buffer.alloc(options.blockBytes);
  for (let at = 0; at < options.blockBytes; at += 8) {
    block.writeUInt32LE(options.seed, at);
    block.writeUInt32LE(((options.blockIndex * options.blockBytes + at) / 8) >>> 0, at + 4);
  }
  return block;
};

export const testDisk = (options: {
  readonly diskBytes: number;
  readonly blockBytes: number;
  readonly seed?: number;
  readonly noZeroes?: boolean;
}): TestDisk => {
  const { diskBytes, blockBytes, seed = 1, noZeroes = false } = options;
  const bytes = Buffer.alloc(diskBytes);
  const map = DiskMap.empty({ diskBytes, blockBytes });
  const chunks = new Map<Digest, Buffer>();
  const blocks = new Map<Digest, Buffer>();
  for (let blockIndex = 0; blockIndex < map.blockCount; blockIndex += 1) {
    if (blockIndex % 7 === 3 && !noZeroes) continue;
    const block = patternBlock({ seed, blockIndex, blockBytes });
    block.fill(0, Math.min(blockBytes, diskBytes - blockIndex * blockBytes)); // the last block is padded
    block.copy(bytes, blockIndex * blockBytes);
    const digest = blockDigest(block);
    chunks.set(digest, encodeChunk(block));
    blocks.set(digest, block);
    map.set(blockIndex, { kind: 'public', digest });
  }
  return { bytes, map, root: map.build().root, chunks, blocks };
};
