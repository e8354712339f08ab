/** The main program of one worker process of the backup. */
import os from 'node:os';
import { serveTasks } from '../work/process-pool.js';
import { runPackTask } from './backup-work.js';

// Behind the guest and the block daemon, which it would take the processor from; not behind everything: a guest may be busy for hours.
os.setPriority(os.constants.priority.PRIORITY_BELOW_NORMAL);
serveTasks(runPackTask);
