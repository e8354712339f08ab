/** The main program of one worker process: runs the tasks that work-pool.ts sends, one after the other; ends with its parent. */
import { CollectiveError } from '@collective/shared';
import { BlockWork, type WorkTask } from './block-work.js';
import type { WorkerReply } from './work-pool.js';

const work = new BlockWork();
const reply = (message: WorkerReply): void => {
  process.send?.(message);
};

process.on('message', (message) => {
  work.run(message as WorkTask).then(
    (ok) => reply({ ok }),
    (error: unknown) => {
      const text = error instanceof Error ? error.message : String(error);
      reply({ failed: { code: error instanceof CollectiveError ? error.code : 'internal', message: text } });
    },
  );
});
process.on('disconnect', () => process.exit(0));
