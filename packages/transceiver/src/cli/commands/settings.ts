/** collective settings: what is set for this machine, and how to change it. */
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS } from '../../agent/agent-types.js';
import type { Settings } from '../../agent/settings-file.js';
import { findAgent } from '../agent-process.js';
import { printResult, type GlobalOptions } from '../output.js';

const METERED = {
  on: 'The link is metered: only what a machine needs now is fetched, and your data is saved (--metered auto asks the system).',
  off: 'The link is not metered: new versions are brought in ahead (--metered on).',
  auto: 'Whether the link is metered the system says; where it cannot, it is not (--metered on).',
} as const;

export async function settings(
  options: GlobalOptions & { readonly tellTraces?: string; readonly metered?: string },
): Promise<void> {
  const { tellTraces, metered } = options;
  if (tellTraces !== undefined && tellTraces !== 'on' && tellTraces !== 'off')
    throw new CollectiveError('usage', '--tell-traces wants "on" or "off".');
  if (metered !== undefined && !Object.hasOwn(METERED, metered))
    throw new CollectiveError('usage', '--metered wants "on", "off" or "auto".');
  const { client } = await findAgent(options);
  const set = (await client.post(AGENT_PATHS.settings, {
    ...(tellTraces === undefined ? {} : { tellTraces: tellTraces === 'on' }),
    ...(metered === undefined ? {} : { metered }),
  })) as Settings;
  printResult(
    options,
    set,
    `${
      set.tellTraces
        ? 'Which blocks of an appliance a boot and its use touch is told to the repository, which keeps it without your name (--tell-traces off).'
        : 'Nothing is told to the repository of which blocks a boot and use of an appliance touch (--tell-traces on).'
    }\n${METERED[set.metered]}`,
  );
}
