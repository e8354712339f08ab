/**
 * Before layers give way to a committed state: every block that may differ is read from the view of those layers and compared with what the new base
 * says of it. So a base that is not what the person wrote, whoever made it, never takes the place of a layer. Private blocks go into their
 * cache on the way: what was just written needs no download.
 */
import { CollectiveError, DIGEST_BYTES, hasCode, isAllZero, MAP_KIND, type Digest } from '@collective/shared';
import type { BlockDevice } from './block-device.js';
import { publicNaming } from './cache/block-naming.js';
import { neighbourhoodOf, type ImageMap } from './image-device.js';
import type { FetchClient } from './fetch/fetch-client.js';

/** Blocks that are compared as a run where nothing was written. */
const RUN_BLOCKS = 1024;
const PARALLEL_BLOCKS = 4;
/** A gibibyte in blocks of 16 KiB rests for half a minute in all, while the guest uses the disk. */
const BLOCKS_A_REST = 4;

export type CommitCheck = {
  readonly view: BlockDevice;
  /** Blocks of `to` that the view's layers touch, ascending. */
  readonly changed: Uint32Array;
  /** What lies below the view's layers; undefined: zeroes. */
  readonly from: ImageMap | undefined;
  readonly to: ImageMap;
  /** Undefined: there are no private blocks. */
  readonly fill: FetchClient['fill'] | undefined;
  readonly placementTag: number;
  /** Where the guest's requests get their turn. */
  readonly rest: () => Promise<void>;
};

/** Errors: `digest-mismatch` (a block is not what the base says), `block-unavailable` (it cannot be read just now), `local-io`. */
export const checkCommit = async (check: CommitCheck): Promise<void> => {
  const doubtful = blocksToRead(check);
  let resting = Promise.resolve();
  let checked = 0;
  const work = async (): Promise<void> => {
    try {
      for (const block of doubtful) {
        if ((checked += 1) % BLOCKS_A_REST === 0) await (resting = resting.then(check.rest));
        await checkBlock(check, block);
      }
    } finally {
      doubtful.return(undefined); // after a failure the others need not go on
    }
  };
  // They share the one iterator. All are waited for, so that nothing reads the view afterwards.
  const results = await Promise.allSettled(Array.from({ length: PARALLEL_BLOCKS }, work));
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
};

/** Those that were written, and those of which the two states say something different. */
export function* blocksToRead({ changed, from, to }: Pick<CommitCheck, 'changed' | 'from' | 'to'>): Generator<number> {
  const before = from ?? { kinds: new Uint8Array(to.blockCount).fill(MAP_KIND.zero), digestBytes: undefined };
  const isComparable = from === undefined || (from.blockBytes === to.blockBytes && from.blockCount === to.blockCount);
  let next = 0;
  for (let start = 0; start < to.blockCount; start += RUN_BLOCKS) {
    const end = Math.min(to.blockCount, start + RUN_BLOCKS);
    const isSame = isComparable && isSameRun(before, to, start, end);
    for (let block = start; block < end; block += 1) {
      const isChanged = changed[next] === block;
      if (isChanged) next += 1;
      if (isChanged || (!isSame && !(isComparable && isSameRun(before, to, block, block + 1)))) yield block;
      // The rest of a run that is the same up to the next change.
      else if (isSame) block = Math.min(end, changed[next] ?? end) - 1;
    }
  }
}

/** A block that is zero has zeroes for its digest. */
const isSameRun = (
  before: { readonly kinds: Uint8Array; readonly digestBytes: Buffer | undefined },
  to: ImageMap,
  start: number,
  end: number,
): boolean => {
  const kinds = to.kinds.subarray(start, end);
  if (Buffer.compare(before.kinds.subarray(start, end), kinds) !== 0) return false;
  if (before.digestBytes === undefined) return true; // both are zeroes
  const [from, until] = [start * DIGEST_BYTES, end * DIGEST_BYTES];
  return before.digestBytes.compare(to.digestBytes, from, until, from, until) === 0;
};

const checkBlock = async (check: CommitCheck, block: number): Promise<void> => {
  const { blockBytes, diskBytes } = check.to;
  const start = block * blockBytes;
  const bytes = Buffer.alloc(blockBytes); // the last one may reach beyond the disk
  const onDisk = bytes.subarray(0, Math.min(blockBytes, diskBytes - start));
  if (!check.view.tryRead(onDisk, start)) await check.view.read(onDisk, start);
  if (await isAsSaid(check, block, bytes)) return;
  throw new CollectiveError(
    'digest-mismatch',
    `block ${block} of the disk is not what the base says; nothing was changed`,
    {
      data: { blockIndex: block },
    },
  );
};

const isAsSaid = async ({ to, fill, placementTag }: CommitCheck, block: number, bytes: Buffer): Promise<boolean> => {
  const kind = to.kinds[block];
  if (kind === MAP_KIND.zero) return isAllZero(bytes);
  const digest = to.digestBytes.toString('hex', block * DIGEST_BYTES, (block + 1) * DIGEST_BYTES) as Digest;
  if (kind === MAP_KIND.public) return publicNaming.isNamed(bytes, digest);
  if (fill === undefined) return false;
  try {
    await fill({ digest, blockBytes: to.blockBytes, neighbourhood: neighbourhoodOf(block, placementTag) }, bytes);
    return true;
  } catch (error) {
    if (hasCode(error, 'digest-mismatch')) return false;
    throw error;
  }
};
