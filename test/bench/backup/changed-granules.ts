/** What really changed between two states of a disk: its 4 KiB granules, compared byte by byte. */
import { open } from 'node:fs/promises';
import { zstdCompressed } from './zstd-size.js';

const GRANULE_BYTES = 4096;
const READ_BYTES = 4 << 20;

export type ChangedGranules = {
  readonly count: number;
  /** All of them as one stream, zstd level 3: in bytes. */
  readonly compressedBytes: number;
};

/** Of two raw images of one size. */
export const changedGranules = async (before: string, after: string): Promise<ChangedGranules> => {
  const old = await open(before, 'r');
  const now = await open(after, 'r');
  try {
    const { size } = await now.stat();
    const a = Buffer.alloc(READ_BYTES);
    const b = Buffer.alloc(READ_BYTES);
    const stream = zstdCompressed(3);
    let count = 0;
    for (let at = 0; at < size; at += READ_BYTES) {
      const length = Math.min(READ_BYTES, size - at);
      await old.read(a, 0, length, at);
      await now.read(b, 0, length, at);
      if (a.compare(b, 0, length, 0, length) === 0) continue;
      for (let from = 0; from < length; from += GRANULE_BYTES) {
        const to = Math.min(length, from + GRANULE_BYTES);
        if (a.compare(b, from, to, from, to) === 0) continue;
        count += 1;
        await stream.add(Buffer.from(b.subarray(from, to)));
      }
    }
    return { count, compressedBytes: count === 0 ? 0 : await stream.end() };
  } finally {
    await old.close();
    await now.close();
  }
};
