import { expect, it } from 'vitest';
import { runInMaintainedGuest } from './guest-run.js';

const asked: string[] = [];
const guestAgent = {
  request: async (command: string): Promise<unknown> => {
    asked.push(command);
    return command === 'guest-exec' ? { pid: 1 } : { exited: true, exitcode: 0 };
  },
};
const run = { command: 'true', timeoutMs: 1_000 };

it('runs a command in a guest of maintain', async () => {
  const spec = { machine: 'demo-maintain', keepSystemOverlay: true };
  expect(await runInMaintainedGuest({ spec, guestAgent }, run)).toEqual({ exitCode: 0, output: '' });
});

it('enters no other guest: its agent is not even asked', async () => {
  asked.length = 0;
  for (const spec of [{ machine: 'demo' }, { machine: 'demo', keepSystemOverlay: false }])
    await expect(runInMaintainedGuest({ spec, guestAgent }, run)).rejects.toMatchObject({ code: 'not-allowed' });
  expect(asked).toEqual([]);
});

it('says that there is no agent', async () => {
  const spec = { machine: 'demo-maintain', keepSystemOverlay: true };
  await expect(runInMaintainedGuest({ spec, guestAgent: undefined }, run)).rejects.toMatchObject({ code: 'not-found' });
});
