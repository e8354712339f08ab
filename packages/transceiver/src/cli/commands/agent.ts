/** collective agent: runs the agent in the foreground. */
import { runAgent as run } from '../../agent/agent-main.js';
import { homeDirectory, openHome } from '../../home.js';
import { openSupervisedMachines } from '../../agent/supervised-machines.js';
import type { GlobalOptions } from '../output.js';

export async function runAgent(options: GlobalOptions): Promise<void> {
  await run(await openHome(homeDirectory(options.home)), openSupervisedMachines);
  // Nothing may keep a process alive that has ended its work.
  process.exit(0);
}
