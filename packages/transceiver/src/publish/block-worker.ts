/** The main program of one worker process of a publish. */
import { serveTasks } from '../work/process-pool.js';
import { BlockWork } from './block-work.js';

const work = new BlockWork();
serveTasks(async (task: Parameters<BlockWork['run']>[0]) => work.run(task));
