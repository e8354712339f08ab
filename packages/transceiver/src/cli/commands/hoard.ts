/** collective hoard: keeps a version whole on this machine, so that it runs without the repository. */
import { AGENT_PATHS, type HoardReply } from '../../agent/agent-types.js';
import { megabytes } from '../../megabytes.js';
import { findAgent } from '../agent-process.js';
import { interruptSignal, printResult, progressView, type GlobalOptions } from '../output.js';

export async function hoard(reference: string, options: GlobalOptions & { readonly off?: true }): Promise<void> {
  const { client } = await findAgent(options);
  const view = await progressView();
  try {
    const reply = (await client.job(
      AGENT_PATHS.hoard,
      { name: reference, ...(options.off === true ? { isOff: true } : {}) },
      { signal: interruptSignal(), onEvent: (event) => view.show(event) },
    )) as HoardReply;
    view.end();
    printResult(options, reply, textOf(reply));
  } finally {
    view.end();
  }
}

const textOf = ({ name, version, bytes }: HoardReply): string =>
  version === null
    ? `${name} is not kept whole any more.`
    : `${name}@${version} is here whole (${megabytes(bytes)}) and stays: it runs without the repository.`;
