/**
 * Commands in a guest over its guest agent's channel, which QEMU itself serves: so a test hears from the guest while agent,
 * supervisor and block daemon are being killed. A guest that is paused answers late, and is asked again: a command may run
 * twice. What must run long is started with systemd-run.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CollectiveError } from '@collective/shared';
import { GuestAgent, sessionPaths } from '@collective/transceiver';
import { eventually } from '../support/eventually.js';

export type GuestResult = { readonly code: number; readonly output: string };

type ExecStatus = { readonly exited: boolean; readonly exitcode?: number; readonly 'out-data'?: string };

const ANSWER_MS = 15_000;
/** Each question costs an emulated guest a tenth of a second of its processor. */
const POLL_MS_MAX = 2_000;
const PATH =
  'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive';

export class GuestShell {
  readonly #agent: GuestAgent;

  private constructor(agent: GuestAgent) {
    this.#agent = agent;
  }

  /** Of a machine that runs, found by its record. Resolves when the guest's agent answers. */
  static async open(home: string, machine: string, timeoutMs: number): Promise<GuestShell> {
    const record = JSON.parse(await readFile(path.join(home, 'machines', machine, 'machine.json'), 'utf8')) as {
      readonly folder: string;
    };
    const agent = new GuestAgent(sessionPaths(record.folder).agent);
    await eventually('the guest agent answers', timeoutMs, async () =>
      (await agent.ping({ timeoutMs: ANSWER_MS })) ? true : undefined,
    );
    return new GuestShell(agent);
  }

  /** Runs `script` with bash and waits for its end; output is stdout and stderr together. */
  async run(script: string, timeoutMs = 120_000): Promise<GuestResult> {
    const step = `in the guest: ${script.slice(0, 120)}`;
    const giveUpAt = performance.now() + timeoutMs;
    const { pid } = await eventually(step, timeoutMs, async () =>
      this.#ask<{ readonly pid: number }>('guest-exec', {
        path: '/bin/bash',
        arg: ['-c', `exec 2>&1\n${PATH}\n${script}`],
        'capture-output': true,
      }),
    );
    let status: ExecStatus | undefined;
    for (let waitMs = 200; status?.exited !== true; waitMs = Math.min(waitMs * 1.5, POLL_MS_MAX)) {
      if (performance.now() > giveUpAt) throw new Error(`${step}: not within ${timeoutMs} ms`);
      await delay(waitMs);
      status = await this.#ask<ExecStatus>('guest-exec-status', { pid });
    }
    return {
      code: status.exitcode ?? -1,
      output: Buffer.from(status['out-data'] ?? '', 'base64').toString('utf8'),
    };
  }

  /** As `run`; fails with the output when the exit code is not 0. */
  async check(script: string, timeoutMs?: number): Promise<string> {
    const { code, output } = await this.run(script, timeoutMs);
    if (code !== 0) throw new Error(`in the guest, exit code ${code}: ${script}\n${output.slice(-4_000)}`);
    return output;
  }

  /** A file of the guest, given whole: written below /run by base64, without a limit of the command line. */
  async write(file: string, text: string): Promise<void> {
    await this.check(
      `mkdir -p "$(dirname ${file})"; echo ${Buffer.from(text).toString('base64')} | base64 -d >${file}`,
    );
  }

  /** Undefined when the guest did not answer in time. */
  async #ask<T>(command: string, words: Readonly<Record<string, unknown>>): Promise<T | undefined> {
    try {
      return (await this.#agent.request(command, words, { timeoutMs: ANSWER_MS })) as T;
    } catch (error) {
      const data = error instanceof CollectiveError ? (error.data as { readonly timedOut?: boolean }) : undefined;
      // Late, or the channel is busy: QEMU takes one talker at a time, and the supervisor talks to the agent as well.
      if (data?.timedOut === true || (error instanceof CollectiveError && /cannot be reached/.test(error.message)))
        return undefined;
      throw error;
    }
  }
}
