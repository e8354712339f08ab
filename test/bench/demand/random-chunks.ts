/**
 * Public chunks in a repository's folder whose blocks compress to half, as those of a system disk do (the 700 of a boot of Debian: 29 KB in the
 * mean). Nobody publishes them: whoever knows a digest may read a chunk, and the block daemon is told the disk's map.
 */
import { randomFillSync } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { DiskMap, encodeChunk, sha256, type Digest } from '@collective/shared';

export const BLOCK_BYTES = 65_536;
const RANDOM_BYTES = BLOCK_BYTES / 2;

export type RandomChunks = { readonly digests: readonly Digest[]; readonly chunkBytes: number };

/** Not durable: it is gone with the benchmark. */
export const writeRandomChunks = async (folder: string, count: number): Promise<RandomChunks> => {
  const block = Buffer.alloc(BLOCK_BYTES);
  const digests: Digest[] = [];
  let chunkBytes = 0;
  for (let index = 0; index < count; index += 1) {
    const digest = sha256(randomFillSync(block, 0, RANDOM_BYTES));
    const chunk = encodeChunk(block, { level: 1 });
    const shard = path.join(folder, 'chunks', digest.slice(0, 2));
    await mkdir(shard, { recursive: true });
    await writeFile(path.join(shard, digest), chunk);
    digests.push(digest);
    chunkBytes = chunk.length;
  }
  return { digests, chunkBytes };
};

/** A disk of those blocks in that order, each with `spread` - 1 blocks of zeroes behind it. */
export const mapOfDigests = (digests: readonly Digest[], spread: number): DiskMap => {
  const map = DiskMap.empty({ diskBytes: digests.length * spread * BLOCK_BYTES, blockBytes: BLOCK_BYTES });
  digests.forEach((digest, index) => map.set(index * spread, { kind: 'public', digest }));
  return map;
};
