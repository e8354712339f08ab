import { expect, test } from 'vitest';
import { setGoing } from './set-going.js';

/** QEMU's run states in turn; undefined: no answer in time. */
const run = async (statuses: (string | undefined)[], isStopped = false): Promise<string[]> => {
  const said: string[] = [];
  const qemu = {
    ended: undefined,
    qmp: {
      queryStatus: () => {
        const status = statuses.shift();
        if (status === undefined) return Promise.reject(new Error('QEMU did not answer'));
        return Promise.resolve({ status, running: status === 'running' });
      },
      cont: () => Promise.resolve(void said.push('cont')),
    },
  };
  await setGoing(qemu, {
    isStopped,
    onStarted: () => said.push('started'),
    lookAgain: () => Promise.resolve(void said.push('look')),
    log: (text) => said.push(text),
  });
  return said;
};

test('a QEMU that waits for its first instruction is continued', async () => {
  expect(await run(['prelaunch'])).toEqual(['cont', 'started']);
});

test('a QEMU that was taken over in a pause, and is too busy to answer at first, is asked again until its pause is known', async () => {
  expect(await run([undefined, 'io-error'])).toEqual(['Error: QEMU did not answer', 'started', 'look']);
});

test('a QEMU that was resumed, or stopped to be saved by a supervisor that died, goes on from where it stands', async () => {
  expect(await run(['paused'], true)).toEqual(['cont', 'started', 'look']);
});
