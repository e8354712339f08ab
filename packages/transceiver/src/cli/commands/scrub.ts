/** collective scrub: reads the whole cache and checks it; what is damaged is forgotten and fetched again when it is wanted. */
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS } from '../../agent/agent-types.js';
import type { ScrubStatus } from '../../blockd/cache/scrubber.js';
import { findAgent } from '../agent-process.js';
import { interruptSignal, printResult, progressView, type GlobalOptions } from '../output.js';

const EVERY_DAYS_MAX = 3650;

export async function scrub(options: GlobalOptions & { readonly every?: string }): Promise<void> {
  const everyDays = options.every === undefined ? undefined : Number(options.every);
  if (everyDays !== undefined && !(Number.isInteger(everyDays) && everyDays >= 0 && everyDays <= EVERY_DAYS_MAX))
    throw new CollectiveError('usage', `--every wants a number of days from 0 to ${EVERY_DAYS_MAX}.`);
  const { client } = await findAgent(options);
  const view = await progressView();
  try {
    const status = (await client.job(
      AGENT_PATHS.scrub,
      { start: everyDays === undefined, ...(everyDays === undefined ? {} : { everyDays }) },
      { signal: interruptSignal(), onEvent: (event) => view.show(event) },
    )) as ScrubStatus;
    view.end();
    printResult(options, status, everyDays === undefined ? resultText(status) : settingText(everyDays));
  } finally {
    view.end();
  }
}

const settingText = (everyDays: number): string =>
  everyDays === 0
    ? 'The cache is checked only when you ask for it.'
    : `The cache is checked by itself every ${everyDays === 1 ? 'day' : `${everyDays} days`}.`;

const resultText = ({ last }: ScrubStatus): string =>
  last === null ? 'Nothing was checked.' : `Checked ${scrubResult(last)}.`;

/** `1234 blocks (80 MB): all good` for people. */
export const scrubResult = (pass: {
  readonly blocks: number;
  readonly bytes: number;
  readonly damaged: number;
}): string =>
  `${pass.blocks} ${pass.blocks === 1 ? 'block' : 'blocks'} (${(pass.bytes / 1e6).toFixed(0)} MB): ${
    pass.damaged === 0
      ? 'all good'
      : `${pass.damaged} damaged, forgotten and fetched again when ${pass.damaged === 1 ? 'it is' : 'they are'} wanted`
  }`;
