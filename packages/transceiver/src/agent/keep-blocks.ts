/** Has the block daemon keep blocks, or let go of them, in slices that it reads from a file: so it can be given up, and says how far it is. */
import type { ControlClient } from '../blockd/control/control-client.js';
import type { Home } from '../home.js';
import type { BlockList } from './machine-port.js';
import { withListFile } from './missing-blocks.js';

const DIGEST_BYTES = 32;
/** 8 MiB of blocks of 64 KiB: some seconds of a slow line. */
const BLOCKS_A_SLICE = 128;

/** Errors: those of blockd's `hoard`; the signal's reason. */
export async function keepBlocks(
  home: Home,
  lists: readonly BlockList[],
  options: {
    readonly isKept: boolean;
    readonly client: Pick<ControlClient, 'request'>;
    readonly signal: AbortSignal;
    readonly onProgress: (done: number) => void;
  },
): Promise<void> {
  const { isKept, client, signal, onProgress } = options;
  let done = 0;
  await withListFile(home, async (file) => {
    for (const { blockBytes, digests } of lists) {
      for (let at = 0; at < digests.length; at += BLOCKS_A_SLICE * DIGEST_BYTES) {
        signal.throwIfAborted();
        const slice = digests.subarray(at, at + BLOCKS_A_SLICE * DIGEST_BYTES);
        await client.request(isKept ? 'hoard' : 'release', await file({ blockBytes, digests: slice }));
        done += slice.length / DIGEST_BYTES;
        onProgress(done);
      }
    }
  });
}
