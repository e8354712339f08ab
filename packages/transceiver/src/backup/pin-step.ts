/**
 * A snapshot that must stay for good (what a version left before another one was started) is pinned as soon as the repository
 * can be reached, before the next one is sent. It is noted until it is done.
 */
import { hasCode } from '@collective/shared';
import { signalOf } from './backup-person.js';
import type { StepContext } from './pack-step.js';

/** False: there was none. Errors: those of the network; a snapshot that is not there any more is none. */
export async function pinOne({ parts, file }: StepContext, signal: AbortSignal): Promise<boolean> {
  const [first] = file.state.toPin;
  if (first === undefined) return false;
  const { subscription, number } = first;
  await parts.person.client
    .call('pinSnapshot', { params: { subscription, number }, ...signalOf(signal) })
    .catch((error: unknown) => {
      if (!hasCode(error, 'not-found')) throw error;
    });
  await parts.onStep?.('snapshot-pinned');
  await file.update((state) => ({
    ...state,
    toPin: state.toPin.filter((one) => one.subscription !== subscription || one.number !== number),
  }));
  return true;
}
