/**
 * Finds a QEMU of which nobody kept the process id: the supervisor was killed between starting it and writing its record. It
 * is known by its control socket, whose path is among its arguments and belongs to one machine.
 */
import { readdir, readFile } from 'node:fs/promises';
import { CollectiveError } from '@collective/shared';
import { sessionPaths } from './machine-session.js';
import { identifyProcess, type ProcessIdentity, signalProcess, waitForEnd } from './process-identity.js';
import { controlListener, INCOMING } from './qemu-arguments.js';

/** Every process that runs on the machine's folder: QEMU, or a program in front of it that is about to become it. */
export async function findQemus(folder: string): Promise<ProcessIdentity[]> {
  const [, wanted = ''] = controlListener(sessionPaths(folder).qmp);
  const found: ProcessIdentity[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    if (!(await wordsOf(name)).includes(wanted)) continue;
    const identity = await identifyProcess(Number(name));
    if (identity !== undefined) found.push(identity);
  }
  return found;
}

/** Whether it was started for the state of a suspended machine: what its guest did before, its own counters do not know. */
export const wasResumed = async ({ pid }: ProcessIdentity): Promise<boolean> =>
  (await wordsOf(String(pid))).includes(INCOMING);

const wordsOf = async (pid: string): Promise<string[]> =>
  (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');

/** Ends them: left over, they would hold memory and sockets for ever. Errors: `local-io` for one that cannot be killed. */
export async function endStrayQemus(folder: string, log: (text: string) => void): Promise<void> {
  for (const stray of await findQemus(folder)) {
    log(`QEMU ${stray.pid} was not in the record and is ended`);
    await signalProcess(stray, 'SIGKILL');
    if (!(await waitForEnd(stray, 10_000))) throw new CollectiveError('local-io', `QEMU ${stray.pid} cannot be killed`);
  }
}
