/** The disks that the read path's histories read: made once, of three block sizes, sharing blocks, with holes and a short last block. */
import { DiskMap, blockDigest, encodeChunk, joinChunk, type Digest } from '@collective/shared';
import { Random } from './random.js';
import type { SimulatedChunk } from './simulated-network.js';

export type ReadImage = { readonly name: string; readonly bytes: Buffer; readonly map: DiskMap };

const BLOCKS_OF: Readonly<Record<number, number>> = { 4096: 12, 16384: 6, 65536: 3 };
const BLOCK_SIZES = [4096, 16384, 65536];

/** A block says where it belongs; every other one does not compress, so that its chunk is raw. */
const blockOf = (random: Random, content: number, blockBytes: number): Buffer => {
  const block = Buffer.alloc(blockBytes);
  for (let at = 0; at < blockBytes; at += 8) {
    block.writeUInt32LE(content, at);
    block.writeUInt32LE(content % 2 === 0 ? at : random.bits(), at + 4);
  }
  return content % 4 === 1 ? random.bytes(blockBytes) : block;
};

const build = (): { images: ReadImage[]; chunks: Map<Digest, SimulatedChunk> } => {
  const random = new Random(20_260_101);
  const chunks = new Map<Digest, SimulatedChunk>();
  const images: ReadImage[] = [];
  for (const blockBytes of BLOCK_SIZES) {
    const count = BLOCKS_OF[blockBytes] ?? 1;
    const shared = Array.from({ length: count }, (_unused, at) => blockOf(random, 1000 + at, blockBytes));
    for (const name of ['a', 'b']) {
      const diskBytes = count * blockBytes - (name === 'a' ? 512 * 3 : 0);
      const bytes = Buffer.alloc(diskBytes);
      const map = DiskMap.empty({ diskBytes, blockBytes });
      for (let index = 0; index < count; index += 1) {
        if (index % 7 === 3) continue;
        // Every third block of b is one of a's, elsewhere; some are there twice.
        const own = name === 'b' && index % 3 !== 0 ? blockOf(random, 2000 + index, blockBytes) : undefined;
        const block = Buffer.from(
          own ?? shared[name === 'a' ? index : (index * 5 + 1) % (count - 1)] ?? Buffer.alloc(0),
        );
        block.fill(0, Math.min(blockBytes, diskBytes - index * blockBytes));
        block.copy(bytes, index * blockBytes);
        const digest = blockDigest(block);
        const chunk = encodeChunk(block);
        chunks.set(digest, {
          chunk,
          // Says that it holds one block and holds sixteen.
          bomb: bombOf(blockBytes),
          otherLength: encodeChunk(block.subarray(0, blockBytes / 2)),
        });
        map.set(index, { kind: 'public', digest });
      }
      images.push({ name: `${name}${blockBytes}`, bytes, map });
    }
  }
  return { images, chunks };
};

const bombOf = (blockBytes: number): Buffer => {
  const huge = encodeChunk(Buffer.alloc(1 << 20));
  return joinChunk({ codec: 'zstd', cipher: 'none', epoch: 0, plainBytes: blockBytes }, huge.subarray(48));
};

export const { images: READ_IMAGES, chunks: READ_CHUNKS } = build();
