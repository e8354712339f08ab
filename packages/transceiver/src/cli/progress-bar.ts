/** The progress of a long job as one bar a step, for terminals. */
import cliProgress from 'cli-progress';
import type { JobEvent } from '../agent/agent-types.js';

export function barView(): { readonly show: (event: JobEvent) => void; readonly end: () => void } {
  let bar: cliProgress.SingleBar | undefined;
  let step = '';
  const end = (): void => {
    bar?.stop();
    bar = undefined;
  };
  // A second Ctrl-C ends the program in the middle of a bar: the cursor must come back.
  process.once('exit', end);
  return {
    show: (event) => {
      if (event.event === 'note') {
        end();
        step = '';
        process.stderr.write(`${event.text}\n`);
      }
      if (event.event !== 'progress') return;
      if (event.step !== step) {
        end();
        step = event.step;
        if (event.total === undefined || event.total === 0) {
          process.stderr.write(`${event.text}\n`);
          return;
        }
        bar = new cliProgress.SingleBar(
          { format: '{text} [{bar}] {percentage} % {eta_formatted}', stream: process.stderr, hideCursor: true },
          cliProgress.Presets.legacy,
        );
        bar.start(event.total, event.done ?? 0, { text: event.text });
        return;
      }
      bar?.update(event.done ?? 0, { text: event.text });
    },
    end,
  };
}
