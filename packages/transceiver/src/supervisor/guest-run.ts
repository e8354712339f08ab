/**
 * A shell command in the guest of a maintain session, by its agent, as root: for the clean-up before it is published.
 * Only in machines that keep their system overlay: a person's session is never entered.
 */
import { CollectiveError } from '@collective/shared';
import type { GuestAgent } from '../machine/guest-agent.js';
import { type GuestCommandResult, runInGuest } from '../machine/guest-exec.js';
import type { MachineSpec } from './machine-spec.js';

/** Errors: `not-allowed` in any other machine, `not-found` without an agent in a guest that runs, `local-io`. */
export async function runInMaintainedGuest(
  {
    spec,
    guestAgent,
  }: {
    readonly spec: Pick<MachineSpec, 'machine' | 'keepSystemOverlay'>;
    readonly guestAgent: Pick<GuestAgent, 'request'> | undefined;
  },
  { command, timeoutMs }: { readonly command: string; readonly timeoutMs: number },
): Promise<GuestCommandResult> {
  if (spec.keepSystemOverlay !== true)
    throw new CollectiveError('not-allowed', `${spec.machine} is not maintained: no command is run in it`);
  if (guestAgent === undefined)
    throw new CollectiveError('not-found', `${spec.machine} has no guest agent that runs; see --no-clean-up`);
  return await runInGuest(guestAgent, command, { timeoutMs });
}
