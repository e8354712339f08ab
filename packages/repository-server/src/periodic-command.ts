/**
 * What a running server does from time to time as a process of its own (`gc`, `pack-boots`), so that walking every map neither stops the requests nor
 * takes their memory. One at a time of each. Whether it or the server is killed, the other goes on: each works under the catalogue's lock.
 */
import { spawn } from 'node:child_process';
import { setPriority } from 'node:os';
import { type FastifyBaseLogger } from 'fastify';

/** A server that is restarted every day collects all the same. */
const FIRST_MS_MAX = 600_000;
const ERROR_CHARS_MAX = 2_000;

export type PeriodicCommand = { stop(): Promise<void> };

/** `command` and its words do it once and print the result as JSON on stdout; `what` names it in the log. */
export const runPeriodically = (
  command: readonly [string, ...string[]],
  options: {
    readonly what: string;
    readonly everyMs: number;
    readonly niceness: number;
    readonly logger: Pick<FastifyBaseLogger, 'info' | 'error'>;
  },
): PeriodicCommand => {
  const { what, everyMs, niceness, logger } = options;
  let kill = (): void => undefined;
  let running: Promise<void> = Promise.resolve();
  let timer: NodeJS.Timeout | undefined;
  let isStopped = false;

  const runOnce = (): Promise<void> =>
    new Promise((resolve) => {
      const [program, ...words] = command;
      const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] });
      kill = () => void child.kill();
      let stdout = '';
      let stderr = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout = (stdout + text).slice(-ERROR_CHARS_MAX)));
      child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr = (stderr + text).slice(-ERROR_CHARS_MAX)));
      child.once('error', (error) => (stderr = error.message));
      child.once('close', (code) => {
        if (code === 0) logger.info({ result: stdout.trim() }, what);
        else if (!isStopped) logger.error({ code, stderr: stderr.trim() }, `${what} failed`);
        resolve();
      });
      try {
        if (child.pid !== undefined) setPriority(child.pid, niceness);
      } catch {
        // It has ended already, or may not: then it runs as everything else.
      }
    });
  const schedule = (afterMs: number): void => {
    timer = setTimeout(() => {
      running = runOnce().then(() => {
        if (!isStopped) schedule(everyMs);
      });
    }, afterMs);
  };
  schedule(Math.min(everyMs, FIRST_MS_MAX));
  return {
    stop: async () => {
      isStopped = true;
      clearTimeout(timer);
      kill();
      await running;
    },
  };
};
