/** The main program of one worker process of the backup. */
import { standBehind } from '../work/background.js';
import { serveTasks } from '../work/process-pool.js';
import { takeShortTurns } from '../work/short-turns.js';
import { runPackTask } from './backup-work.js';

standBehind();
takeShortTurns();
serveTasks(runPackTask);
