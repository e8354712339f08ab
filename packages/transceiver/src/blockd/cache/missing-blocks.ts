/**
 * Which blocks of a list are not in the cache: what a version lacks to run without the repository. A look at the index alone: that the
 * content of a slot is right is seen when it is read.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { FileSystem } from '../../storage/file-system.js';
import { DIGEST_BYTES, readBlockList } from './block-list.js';
import { DIGEST_WORDS } from './slot-arrays.js';
import type { SlotReader } from './slot-reader.js';

/** 1 TiB in blocks of 64 KiB. */
const BLOCKS_MAX = 2 ** 24;
/** Looked up in a row, about a millisecond: guests' reads come between. */
const BLOCKS_A_TURN = 4_096;

/** `path`: a file of 32-byte digests, each counted as often as it is there. `missing`: digests in the same form and order. Errors: `not-found`, `malformed`, `too-large`. */
export const findMissing = async (
  fileSystem: Pick<FileSystem, 'readWhole'>,
  path: string,
  cached: Pick<SlotReader, 'find'>,
): Promise<{ readonly blocks: number; readonly missing: Buffer }> => {
  const digests = await readBlockList(fileSystem, path, BLOCKS_MAX);
  const blocks = digests.length / DIGEST_BYTES;
  const words = new Uint32Array(DIGEST_WORDS);
  // Put together in the list's own memory: an object for each block of a large disk would take more than the guests have.
  let missingBytes = 0;
  for (let block = 0; block < blocks; block += 1) {
    if (block > 0 && block % BLOCKS_A_TURN === 0) await nextTurn();
    for (let word = 0; word < DIGEST_WORDS; word += 1)
      words[word] = digests.readUInt32LE(block * DIGEST_BYTES + word * Uint32Array.BYTES_PER_ELEMENT);
    if (cached.find(words, 0) < 0) {
      digests.copyWithin(missingBytes, block * DIGEST_BYTES, (block + 1) * DIGEST_BYTES);
      missingBytes += DIGEST_BYTES;
    }
  }
  return { blocks, missing: digests.subarray(0, missingBytes) };
};
