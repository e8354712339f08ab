import { describe, expect, it } from 'vitest';
import { runInGuest } from './guest-exec.js';

/** An agent that ends the command after so many questions. */
const agent = (statuses: readonly unknown[], started: unknown = { pid: 7 }) => {
  const asked: [string, unknown][] = [];
  let at = 0;
  return {
    asked,
    request: async (command: string, words?: Readonly<Record<string, unknown>>): Promise<unknown> => {
      asked.push([command, words]);
      return command === 'guest-exec' ? started : statuses[Math.min(at++, statuses.length - 1)];
    },
  };
};
const base64 = (text: string): string => Buffer.from(text).toString('base64');
const wait = async (): Promise<void> => undefined;

describe('a command in a guest', () => {
  it('is given to a shell, and its end is waited for', async () => {
    const guest = agent([
      { exited: false },
      { exited: false },
      { exited: true, exitcode: 3, 'out-data': base64('one\n'), 'err-data': base64('two') },
    ]);
    const result = await runInGuest(guest, 'rm -f /x; false', { timeoutMs: 10_000, wait });
    expect(result).toEqual({ exitCode: 3, output: 'one\ntwo' });
    expect(guest.asked[0]).toEqual([
      'guest-exec',
      { path: '/bin/sh', arg: ['-c', 'rm -f /x; false'], 'capture-output': true },
    ]);
    expect(guest.asked.slice(1)).toEqual(Array(3).fill(['guest-exec-status', { pid: 7 }]));
  });

  it('that was ended by a signal, or says nothing of its end, has failed', async () => {
    const code = async (status: object): Promise<number> =>
      (await runInGuest(agent([{ exited: true, ...status }]), 'x', { timeoutMs: 1, wait })).exitCode;
    expect(await code({ signal: 9 })).toBe(137);
    expect(await code({})).toBe(255);
    expect(await code({ exitcode: 'zero' })).toBe(255);
  });

  it('prints no control characters to us, and not without end', async () => {
    const status = { exited: true, exitcode: 0, 'out-data': base64(`${'x'.repeat(10_000)}\u001b[2Jred\u0007`) };
    const { output } = await runInGuest(agent([status]), 'x', { timeoutMs: 1, wait });
    expect(output).toHaveLength(4_000);
    expect(output.endsWith('x[2Jred')).toBe(true);
  });

  it('that does not end in time is an error, and so is an agent that starts nothing', async () => {
    const never = agent([{ exited: false }]);
    await expect(runInGuest(never, 'x', { timeoutMs: 5_000, wait })).rejects.toMatchObject({ code: 'local-io' });
    expect(never.asked.length).toBeLessThan(20);
    await expect(runInGuest(agent([], {}), 'x', { timeoutMs: 1, wait })).rejects.toMatchObject({ code: 'local-io' });
  });
});
