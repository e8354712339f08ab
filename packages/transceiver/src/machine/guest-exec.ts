/**
 * Runs a shell command in a guest by its agent (`guest-exec`), and waits for its end. What it prints is the guest's word:
 * bounded, and without control characters, before anybody shows it.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { CollectiveError } from '@collective/shared';
import type { GuestAgent } from './guest-agent.js';
import { field } from './qmp-client.js';

const ASK_FIRST_MS = 50;
const ASK_MS_MAX = 1_000;
const OUTPUT_CHARS_MAX = 4_000;

/** `exitCode`: as a shell has it, 128 and more for a signal. `output`: the end of what it printed. */
export type GuestCommandResult = { readonly exitCode: number; readonly output: string };

/** Errors: `local-io` when the agent refuses, does not answer, or the command has not ended in time (it goes on then). */
export async function runInGuest(
  agent: Pick<GuestAgent, 'request'>,
  command: string,
  options: { readonly timeoutMs: number; readonly wait?: (ms: number) => Promise<unknown> },
): Promise<GuestCommandResult> {
  const wait = options.wait ?? delay;
  const started = await agent.request('guest-exec', {
    path: '/bin/sh',
    arg: ['-c', command],
    'capture-output': true,
  });
  const pid = field(started, 'pid');
  if (typeof pid !== 'number') throw new CollectiveError('local-io', 'The guest agent did not start the command');
  let waitedMs = 0;
  for (let pauseMs = ASK_FIRST_MS; ; pauseMs = Math.min(pauseMs * 2, ASK_MS_MAX)) {
    const status = await agent.request('guest-exec-status', { pid });
    if (field(status, 'exited') === true) return resultOf(status);
    if (waitedMs >= options.timeoutMs)
      throw new CollectiveError('local-io', `The command has not ended in the guest within ${options.timeoutMs} ms`);
    await wait(pauseMs);
    waitedMs += pauseMs;
  }
}

function resultOf(status: unknown): GuestCommandResult {
  const exitCode = field(status, 'exitcode');
  const signal = field(status, 'signal');
  const text = ['out-data', 'err-data'].map((name) => decoded(field(status, name))).join('');
  return {
    exitCode: typeof exitCode === 'number' ? exitCode : typeof signal === 'number' ? 128 + signal : 255,
    output: text.trim().slice(-OUTPUT_CHARS_MAX),
  };
}

const decoded = (value: unknown): string =>
  typeof value === 'string'
    ? Buffer.from(value, 'base64')
        .toString('utf8')
        .replaceAll(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/g, '')
    : '';
