/** Opens bases, one after the other, in a thread of its own: building the map of a large disk to compare its root would hold up the guests' reads. */
import { parentPort } from 'node:worker_threads';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { sentError } from '../fetch/thread-messages.js';
import type { FromBaseWorker, ToBaseWorker } from './base-thread.js';
import { openBase } from './open-base.js';

const fileSystem = new LocalFileSystem();

const say = (message: FromBaseWorker, transfer: ArrayBuffer[] = []): void => parentPort?.postMessage(message, transfer);

const answer = async ({ id, folder, digest }: ToBaseWorker): Promise<void> => {
  try {
    const { file, kinds, digestBytes } = await openBase(fileSystem, folder, digest);
    const own = { kinds: new Uint8Array(kinds), digestBytes: new Uint8Array(digestBytes) };
    say({ id, kind: 'opened', file, ...own }, [own.kinds.buffer, own.digestBytes.buffer]);
  } catch (error) {
    say({ id, kind: 'failed', error: sentError(error) });
  }
};

// One after the other: each holds a whole map.
let last = Promise.resolve();
parentPort?.on('message', (asked: ToBaseWorker) => {
  last = last.then(() => answer(asked));
});
