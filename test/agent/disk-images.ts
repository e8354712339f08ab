/** Small disk images whose contents say where they belong. */
import { open } from 'node:fs/promises';

export const BLOCK_BYTES = 65_536;

/** A sparse raw file; block `index` is filled with `value(index)`, 0 leaves a hole. Each block begins with its own number. */
export const writeImage = async (path: string, blockCount: number, value: (index: number) => number): Promise<void> => {
  const file = await open(path, 'w');
  try {
    await file.truncate(blockCount * BLOCK_BYTES);
    for (let index = 0; index < blockCount; index += 1) {
      const byte = value(index) & 0xff;
      if (byte === 0) continue;
      const block = Buffer.alloc(BLOCK_BYTES, byte);
      block.writeUInt32LE(index, 0);
      // Half of it does not compress, so that chunks have a size.
      for (let at = 4; at < BLOCK_BYTES / 2; at += 4)
        block.writeUInt32LE(Math.imul(index * 65_537 + at + byte, 2_654_435_761) >>> 0, at);
      await file.write(block, 0, BLOCK_BYTES, index * BLOCK_BYTES);
    }
  } finally {
    await file.close();
  }
};
