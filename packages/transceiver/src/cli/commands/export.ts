/** collective export NAME[@VERSION] --disk DISK --socket PATH: serves a disk over NBD until Ctrl-C. */
import { resolve } from 'node:path';
import { AGENT_PATHS } from '../../agent/agent-types.js';
import { findAgent } from '../agent-process.js';
import { Interrupted, interruptSignal, note, progressView, type GlobalOptions } from '../output.js';
import { parseReference } from '../../agent/reference.js';

export async function exportDisk(
  reference: string,
  options: GlobalOptions & { readonly disk: string; readonly socket: string; readonly writable?: boolean },
): Promise<void> {
  const { name, version } = parseReference(reference);
  const socket = resolve(options.socket);
  const { client } = await findAgent(options);
  const signal = interruptSignal();
  const view = await progressView();
  try {
    await client.job(
      AGENT_PATHS.export,
      {
        name,
        ...(version === undefined ? {} : { version }),
        disk: options.disk,
        socket,
        writable: options.writable === true,
      },
      {
        signal,
        onEvent: (event) => {
          if (event.event === 'progress' && event.step === 'serving') {
            if (options.json)
              process.stdout.write(
                `${JSON.stringify({ serving: true, uri: `nbd+unix:///?socket=${socket}`, socket })}\n`,
              );
            else note(`${event.text} Ctrl-C ends it.`);
          } else view.show(event);
        },
      },
    );
  } catch (error) {
    // Ctrl-C is how an export ends well.
    if (!(error instanceof Interrupted)) throw error;
  } finally {
    view.end();
  }
}
