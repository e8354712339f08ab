/**
 * Brings the blocks of a list into the cache, slice by slice: for `collective hoard`, which keeps them there, in the class *hoard*; for a later start,
 * in the class *background*. Guests' reads and traces go first.
 */
import { CollectiveError, type Digest } from '@collective/shared';
import type { FileSystem } from '../storage/file-system.js';
import { RANK } from './block-store.js';
import { DIGEST_BYTES, readBlockList } from './cache/block-list.js';
import type { FetchClient } from './fetch/fetch-client.js';
import { neighbourhoodOf } from './image-device.js';

/** At once: whoever wants more asks again. */
const BLOCKS_MAX = 8_192;

/** What `hoard` and `release` of the control protocol name. Errors: those of readBlockList. */
export const readDigests = async (fileSystem: Pick<FileSystem, 'readWhole'>, path: string): Promise<Digest[]> => {
  const list = await readBlockList(fileSystem, path, BLOCKS_MAX);
  return Array.from(
    { length: list.length / DIGEST_BYTES },
    (_, at) => list.toString('hex', at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES) as Digest,
  );
};

/**
 * Brings blocks in that nobody waits for, in their order, at the pace that the line has left over. Resolves when all of them are in the cache. Errors:
 * `disk-full` when the cache is full (nothing is evicted for them), those of BlockStore.get.
 */
export const prefetchBlocks = async (
  digests: readonly Digest[],
  { blockBytes, fetcher }: { readonly blockBytes: number; readonly fetcher: Pick<FetchClient, 'bring'> },
): Promise<void> => {
  // All of them, also when one is not to be had: whoever asks for the next list is not to queue what is left of this one.
  const ends = await Promise.allSettled(
    digests.map((digest, at) =>
      fetcher.bring(
        { digest, blockBytes, neighbourhood: neighbourhoodOf(at) },
        { rank: RANK.background, wantBytes: false },
      ),
    ),
  );
  const failed = ends.find((end) => end.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
};

/** Resolves when all of them are in the cache, and not evicted any more. Errors: `disk-full` when there is no room, those of BlockStore.get. */
export const hoardBlocks = async (
  digests: readonly Digest[],
  { blockBytes, fetcher }: { readonly blockBytes: number; readonly fetcher: Pick<FetchClient, 'bring' | 'pin'> },
): Promise<void> => {
  const brought = await Promise.all(
    digests.map((digest, at) =>
      fetcher.bring({ digest, blockBytes, neighbourhood: neighbourhoodOf(at) }, { rank: RANK.hoard, wantBytes: false }),
    ),
  );
  const pinned = await fetcher.pin(digests, { blockBytes, isPinned: true });
  // One that came as bytes found no room; one that is not there any more has made room for another.
  if (brought.some((bytes) => bytes !== undefined) || pinned < digests.length)
    throw new CollectiveError('disk-full', 'the cache has no room for all that is to be kept in it');
};
