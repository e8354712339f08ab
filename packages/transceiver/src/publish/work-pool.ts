/** The worker processes of a publish (work/process-pool.ts): they read, hash and compress blocks of an image. */
import { ProcessPool } from '../work/process-pool.js';
import { BlockWork, type WorkResult, type WorkTask } from './block-work.js';

export type WorkPool = ProcessPool<WorkTask, WorkResult>;

/** `workers`: default the machine's cores, at most 4; 0 runs tasks on the calling thread. */
export const openWorkPool = (options: { readonly workers?: number } = {}): WorkPool =>
  ProcessPool.open({
    script: new URL('./block-worker.js', import.meta.url),
    inline: () => {
      const work = new BlockWork();
      return { run: async (task) => work.run(task), close: async () => work.close() };
    },
    ...options,
  });
