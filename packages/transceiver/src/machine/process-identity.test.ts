import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { identifyProcess, isAlive, signalProcess, waitForEnd } from './process-identity.js';

test('a process is known by its id and its start, also when its name holds parentheses and spaces', async () => {
  const child = spawn('bash', ['-c', 'exec -a "a) R 1 (b" sleep 1000']);
  const identity = await identifyProcess(child.pid ?? 0);
  expect(identity?.startTicks).toBeGreaterThan(0);
  if (identity === undefined) return;
  expect(await isAlive(identity)).toBe(true);
  expect(await isAlive({ ...identity, startTicks: identity.startTicks - 1 })).toBe(false);
  expect(await isAlive({ ...identity, boot: 'another' })).toBe(false);
  expect(await signalProcess({ ...identity, startTicks: 1 }, 'SIGKILL')).toBe(false);
  expect(child.exitCode).toBe(null);
  expect(await waitForEnd(identity, 0)).toBe(false);
  expect(await signalProcess(identity, 'SIGKILL')).toBe(true);
  await once(child, 'exit');
  expect(await waitForEnd(identity, 20_000)).toBe(true);
});

test('there is no process with an id that is not used', async () => {
  expect(await identifyProcess(2 ** 22 + 1)).toBe(undefined);
});
