/** The main program of one worker process of the backup. */
import { serveTasks } from '../work/process-pool.js';
import { runPackTask } from './backup-work.js';

serveTasks(runPackTask);
