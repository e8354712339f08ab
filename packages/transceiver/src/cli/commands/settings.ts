/** collective settings: what is set for this machine, and how to change it. */
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS } from '../../agent/agent-types.js';
import type { Settings } from '../../agent/settings-file.js';
import { findAgent } from '../agent-process.js';
import { printResult, type GlobalOptions } from '../output.js';

export async function settings(options: GlobalOptions & { readonly tellTraces?: string }): Promise<void> {
  const { tellTraces } = options;
  if (tellTraces !== undefined && tellTraces !== 'on' && tellTraces !== 'off')
    throw new CollectiveError('usage', '--tell-traces wants "on" or "off".');
  const { client } = await findAgent(options);
  const set = (await client.post(
    AGENT_PATHS.settings,
    tellTraces === undefined ? {} : { tellTraces: tellTraces === 'on' },
  )) as Settings;
  printResult(
    options,
    set,
    set.tellTraces
      ? 'Which blocks a boot touches is told to the repository, which keeps it without your name (--tell-traces off).'
      : 'Nothing is told to the repository of which blocks a boot touches (--tell-traces on).',
  );
}
