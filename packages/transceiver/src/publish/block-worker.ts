/** The entry of one worker thread: runs the tasks that work-pool.ts posts, one after the other. */
import { parentPort } from 'node:worker_threads';
import { CollectiveError } from '@collective/shared';
import { BlockWork, type WorkResult, type WorkTask } from './block-work.js';
import type { WorkerReply } from './work-pool.js';

const work = new BlockWork();

parentPort?.on('message', (task: WorkTask) => {
  work.run(task).then(
    (result) => reply({ ok: result }, buffersOf(result)),
    (error: unknown) => {
      const message = error instanceof Error ? error.message : String(error);
      reply({ failed: { code: error instanceof CollectiveError ? error.code : 'internal', message } }, []);
    },
  );
});

const reply = (message: WorkerReply, transfer: ArrayBuffer[]): void => parentPort?.postMessage(message, transfer);

/** Moved instead of copied; buffers from Node's pool are shared with others and must be copied. */
function buffersOf(result: WorkResult): ArrayBuffer[] {
  const arrays = result.kind === 'hash' ? [result.kinds, result.digests] : result.batches;
  const buffers = arrays.flatMap((array) => (array.buffer instanceof ArrayBuffer && array.byteLength === array.buffer.byteLength ? [array.buffer] : []));
  return [...new Set(buffers)];
}
