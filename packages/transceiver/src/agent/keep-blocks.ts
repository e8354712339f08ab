/** Has the block daemon keep blocks, or let go of them, in slices that it reads from a file: so it can be given up, and says how far it is. */
import { randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ControlClient } from '../blockd/control/control-client.js';
import type { Home } from '../home.js';
import type { BlockList } from './machine-port.js';

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
  const path = join(home.directory, 'run', `blocks-${randomBytes(6).toString('hex')}`);
  let done = 0;
  try {
    for (const { blockBytes, digests } of lists) {
      for (let at = 0; at < digests.length; at += BLOCKS_A_SLICE * DIGEST_BYTES) {
        signal.throwIfAborted();
        const slice = digests.subarray(at, at + BLOCKS_A_SLICE * DIGEST_BYTES);
        await writeFile(path, slice, { mode: 0o600 });
        await client.request(isKept ? 'hoard' : 'release', { blockBytes, path });
        done += slice.length / DIGEST_BYTES;
        onProgress(done);
      }
    }
  } finally {
    await rm(path, { force: true });
  }
}
