/** What a publish asks of a maintained machine that runs: to run the clean-up, and to shut down by itself. */
import { CollectiveError } from '@collective/shared';
import type { Home } from '../home.js';
import type { GuestCommandResult } from '../machine/guest-exec.js';
import { isAtRest, type MachineState } from '../supervisor/machine-state.js';
import { SupervisorClient } from '../supervisor/supervisor-client.js';

/** A system that writes much at its end has so long; then it is ended, and was not clean. */
const CLEAN_STOP_MS = 300_000;

/** Errors: `not-found` without a guest agent, `not-allowed`, `local-io`. */
export async function runInMaintained(
  home: Home,
  machine: string,
  { command, timeoutMs }: { readonly command: string; readonly timeoutMs: number },
): Promise<GuestCommandResult> {
  return withRunning(home, machine, async (client) => client.request('guest-run', { machine, command, timeoutMs }));
}

/** Resolves when the guest has shut down by itself. Errors: `not-found` when it does not run, `conflict` when it had to be ended. */
export async function shutDownCleanly(home: Home, machine: string): Promise<void> {
  const state = await withRunning(home, machine, async (client) => {
    await client.request('stop', { machine, deadlineMs: CLEAN_STOP_MS });
    return client.waitForState(machine, isAtRest);
  });
  if (!wasClean(state))
    throw new CollectiveError(
      'conflict',
      `${machine} did not shut down by itself: what its file systems had not written is not on its disk. Start it again, then publish again.`,
    );
}

const wasClean = (state: MachineState): boolean =>
  state.name === 'stopped' && (state.how === 'by-guest' || state.isClean === true);

async function withRunning<T>(home: Home, machine: string, act: (client: SupervisorClient) => Promise<T>): Promise<T> {
  const notRunning = (cause?: unknown): CollectiveError =>
    new CollectiveError('not-found', `${machine} is not running.`, { cause });
  const client = await SupervisorClient.connect(home).catch((error: unknown) => {
    throw notRunning(error);
  });
  try {
    const { machines } = await client.request('status', {});
    if (!machines.some((each) => each.machine === machine && !isAtRest(each.state))) throw notRunning();
    return await act(client);
  } finally {
    client.close();
  }
}
