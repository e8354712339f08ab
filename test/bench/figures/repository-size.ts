/** What a repository's folder holds, and what a version in it is made of. */
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import type { PublishedVersion } from '../trace-player/published-disks.js';

/** Bytes of all files below the folder, by their lengths. */
export const folderBytes = async (folder: string): Promise<number> => {
  let bytes = 0;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) bytes += (await stat(path.join(entry.parentPath, entry.name))).size;
  return bytes;
};

export type VersionSize = {
  /** Chunks as they travel, each counted once. */
  readonly chunkBytes: number;
  /** Blocks that are not all zero. */
  readonly usedBytes: number;
};

export const versionSize = ({ disks }: PublishedVersion): VersionSize => {
  const lengths = new Map<string, number>();
  let usedBytes = 0;
  for (const { description, map, blockBytes, chunkBytes } of disks) {
    const blockCount = Math.ceil(description.diskBytes / blockBytes);
    for (let block = 0; block < blockCount; block += 1) {
      const digest = map.digestAt(block);
      const length = chunkBytes(block);
      if (digest === undefined || length === undefined) continue;
      lengths.set(digest, length);
      usedBytes += blockBytes;
    }
  }
  return { chunkBytes: [...lengths.values()].reduce((sum, bytes) => sum + bytes, 0), usedBytes };
};
