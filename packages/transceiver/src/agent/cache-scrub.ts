/** `collective scrub`: asks blockd for a pass over the cache and follows it. What is left when nobody follows any more is done slowly later. */
import { setTimeout as delay } from 'node:timers/promises';
import { CollectiveError } from '@collective/shared';
import { ControlClient } from '../blockd/control/control-client.js';
import type { ScrubStatus } from '../blockd/cache/scrubber.js';
import type { Home } from '../home.js';
import { SupervisorClient } from '../supervisor/supervisor-client.js';
import type { ScrubRequest } from './agent-types.js';

const LOOK_MS = 300;
const BLOCKD_START_MS = 20_000;

/** Resolves when the pass is over, at once when none was asked for. Errors: `local-io` when the pass could not come to its end. */
export async function scrubCache(
  home: Home,
  request: ScrubRequest,
  options: { readonly signal: AbortSignal; readonly onProgress: (status: ScrubStatus) => void },
): Promise<ScrubStatus> {
  const supervisor = await SupervisorClient.open(home); // which starts the block daemon
  supervisor.close();
  const client = await ControlClient.connect(home.blockdSocket, { waitMs: BLOCKD_START_MS });
  try {
    const { everyDays, start } = request;
    let status = await client.request('scrub', { start, ...(everyDays === undefined ? {} : { everyDays }) });
    while (start && status.running !== null) {
      options.onProgress(status);
      await delay(LOOK_MS, undefined, { signal: options.signal }).catch(async (error: unknown) => {
        await client.request('scrub', { stop: true });
        throw error;
      });
      status = await client.request('scrub', {});
    }
    if (start && status.failure !== null)
      throw new CollectiveError('local-io', `The cache could not be gone over to its end: ${status.failure}`);
    return status;
  } finally {
    client.close();
  }
}
