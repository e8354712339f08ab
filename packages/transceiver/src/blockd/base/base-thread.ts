/** The serving thread's way to open a base: base-worker.ts does it. */
import { Worker } from 'node:worker_threads';
import { CollectiveError, type Digest } from '@collective/shared';
import type { SentError } from '../fetch/thread-messages.js';
import type { BaseFile } from './base-file.js';
import type { OpenedBase } from './open-base.js';

export type BaseWorkerData = { readonly folder: string; readonly digest: Digest };
export type FromBaseWorker =
  | {
      readonly kind: 'opened';
      readonly file: BaseFile;
      readonly kinds: Uint8Array<ArrayBuffer>;
      readonly digestBytes: Uint8Array<ArrayBuffer>;
    }
  | { readonly kind: 'failed'; readonly error: SentError };

/** As openBase, on the real disk. `script`: the built base-worker.js; only tests that run on the sources give another. */
export const openBaseInThread = async (
  folder: string,
  digest: Digest,
  script: URL = new URL('./base-worker.js', import.meta.url),
): Promise<OpenedBase> => {
  const workerData: BaseWorkerData = { folder, digest };
  const worker = new Worker(script, { workerData, name: 'base' });
  try {
    const answer = await new Promise<FromBaseWorker>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
      worker.once('exit', () => reject(new CollectiveError('internal', 'the thread that opens a base has ended')));
    });
    if (answer.kind === 'failed')
      throw new CollectiveError(answer.error.code, answer.error.message, { data: answer.error.data });
    const { file, kinds, digestBytes } = answer;
    return {
      ...{ digest, file, diskBytes: file.diskBytes, blockBytes: file.blockBytes, blockCount: kinds.length, kinds },
      digestBytes: Buffer.from(digestBytes.buffer),
    };
  } finally {
    await worker.terminate();
  }
};
