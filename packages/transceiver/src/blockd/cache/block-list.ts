/** A list of blocks as the agent hands it over: a file of 32-byte digests, one after the other. */
import { CollectiveError } from '@collective/shared';
import type { FileSystem } from '../../storage/file-system.js';

export const DIGEST_BYTES = 32;

/** The digests, one after the other. Errors: `not-found`, `malformed`, `too-large`. */
export const readBlockList = async (
  fileSystem: Pick<FileSystem, 'readWhole'>,
  path: string,
  blocksMax: number,
): Promise<Buffer> => {
  const digests = await fileSystem.readWhole(path, blocksMax * DIGEST_BYTES);
  if (digests === undefined) throw new CollectiveError('not-found', `there is no list of blocks ${path}`);
  if (digests.length % DIGEST_BYTES !== 0)
    throw new CollectiveError('malformed', `a list of blocks has ${digests.length} bytes`);
  return digests;
};
