/** Opens one base in a thread of its own and ends: building the map of a large disk to compare its root would hold up the guests' reads. */
import { parentPort, workerData } from 'node:worker_threads';
import { sentError } from '../fetch/thread-messages.js';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import type { BaseWorkerData, FromBaseWorker } from './base-thread.js';
import { openBase } from './open-base.js';

const say = (message: FromBaseWorker, transfer: ArrayBuffer[] = []): void => parentPort?.postMessage(message, transfer);

const { folder, digest } = workerData as BaseWorkerData;
try {
  const { file, kinds, digestBytes } = await openBase(new LocalFileSystem(), folder, digest);
  const own = { kinds: new Uint8Array(kinds), digestBytes: new Uint8Array(digestBytes) };
  say({ kind: 'opened', file, ...own }, [own.kinds.buffer, own.digestBytes.buffer]);
} catch (error) {
  say({ kind: 'failed', error: sentError(error) });
}
