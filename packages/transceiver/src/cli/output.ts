/**
 * How a command speaks: results on stdout (people's text, or one JSON value with --json), progress and notes on stderr,
 * an error as sentence, what and hint, with the exit code of the table. A stack is shown with --debug only.
 */
import { CollectiveError } from '@collective/shared/errors';
import type { JobEvent } from '../agent/agent-types.js';
import { exitCodeOf, type ExitCode } from './exit-codes.js';

export type GlobalOptions = { readonly home?: string; readonly json: boolean; readonly debug: boolean };

/** A result: `text` for people (no final newline), `value` for programs. */
export function printResult(options: GlobalOptions, value: unknown, text: string): void {
  if (options.json) process.stdout.write(`${JSON.stringify(value)}\n`);
  else if (text !== '') process.stdout.write(`${text}\n`);
}

export const note = (text: string): void => {
  process.stderr.write(`${text}\n`);
};

/** Prints the error and gives the exit code. */
export function printError(options: GlobalOptions, error: unknown): ExitCode {
  if (error instanceof Interrupted) return 130;
  const known = error instanceof CollectiveError ? error : undefined;
  const code = known?.code ?? 'internal';
  const message = error instanceof Error ? error.message : String(error);
  const sentence = known === undefined ? 'Something failed that should not' : known.row.sentence;
  const hint = known?.row.hint ?? 'Run the command again with --debug to see where.';
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ error: { code, message, hint, data: known?.data ?? {} } })}\n`);
  } else {
    process.stderr.write(
      `collective: ${sentence}${message === sentence ? '' : `: ${message}`}\n${hint === '' ? '' : `  ${hint}\n`}`,
    );
  }
  if (options.debug && error instanceof Error)
    process.stderr.write(
      `${error.stack ?? ''}\n${error.cause instanceof Error ? `cause: ${error.cause.stack ?? ''}\n` : ''}`,
    );
  return exitCodeOf(code);
}

/** Ctrl-C: not an error, but not success either. */
export class Interrupted extends Error {
  constructor() {
    super('interrupted');
  }
}

/** Aborts on the first Ctrl-C or SIGTERM; the second one ends the program at once. */
export function interruptSignal(): AbortSignal {
  const controller = new AbortController();
  const stop = (): void => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new Interrupted());
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  return controller.signal;
}

/** Shows the events of a long job on stderr: a bar on a terminal, lines elsewhere. With --json stdout stays one value. */
export async function progressView(): Promise<{ readonly show: (event: JobEvent) => void; readonly end: () => void }> {
  if (process.stderr.isTTY) {
    const { barView } = await import('./progress-bar.js');
    return barView();
  }
  return lineView();
}

/** At most one line each 2 s for a step, so that a log stays readable. */
function lineView(): { readonly show: (event: JobEvent) => void; readonly end: () => void } {
  let step = '';
  let shownAt = 0;
  return {
    show: (event) => {
      if (event.event === 'note') note(event.text);
      if (event.event !== 'progress') return;
      const now = performance.now();
      if (event.step === step && now - shownAt < 2000) return;
      step = event.step;
      shownAt = now;
      const share =
        event.total !== undefined && event.total > 0 && event.done !== undefined
          ? ` ${String(Math.floor((100 * event.done) / event.total))} %`
          : '';
      note(`${event.text}${share}`);
    },
    end: () => undefined,
  };
}

export { megabytes } from '../megabytes.js';

export const timeOf = (seconds: number): string => new Date(seconds * 1000).toLocaleString();
