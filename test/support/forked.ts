/** Programs of tests and benchmarks that talk over the IPC channel. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { endsWithUs } from './leftovers.js';

/** Ends with this process. `file`: as `new URL('./x-main.js', import.meta.url)`. */
export const startForked = (file: URL, words: readonly (string | number)[] = []): ChildProcess => {
  const child = fork(file, words.map(String), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  endsWithUs(child);
  return child;
};

export const endForked = async (child: ChildProcess): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
};

/** The next message; fails when the process ends first. */
export const heardFrom = async (child: ChildProcess): Promise<unknown> =>
  await new Promise((resolve, reject) => {
    const onExit = (code: number | null): void => reject(new Error(`${child.spawnfile} ended (${code})`));
    child.once('exit', onExit);
    child.once('message', (message) => {
      child.off('exit', onExit);
      resolve(message);
    });
  });
