/**
 * Brings the blocks of a list into the cache and keeps them there: what `collective hoard` asks for, slice by slice. In the class *hoard*, so
 * guests' reads and traces go first.
 */
import { CollectiveError, type Digest } from '@collective/shared';
import { RANK } from './block-store.js';
import type { FetchClient } from './fetch/fetch-client.js';
import { neighbourhoodOf } from './image-device.js';

/** The digests in a file of 32 bytes each. Errors: `malformed`. */
export const digestsOf = (list: Buffer): Digest[] => {
  if (list.length % DIGEST_BYTES !== 0)
    throw new CollectiveError('malformed', `a list of blocks has ${list.length} bytes`);
  const digests: Digest[] = [];
  for (let at = 0; at < list.length; at += DIGEST_BYTES)
    digests.push(list.toString('hex', at, at + DIGEST_BYTES) as Digest);
  return digests;
};

const DIGEST_BYTES = 32;

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
