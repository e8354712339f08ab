/** `stop`: those that are named, or all that run. A suspended one is only ended when the person says that its memory may go. */
import { CollectiveError, isApplianceName } from '@collective/shared';
import type { StopRequest } from './agent-types.js';
import type { MachinePort } from './machine-port.js';

/** Gives those that were stopped. Errors: `usage`, `suspended`, those of the machine port. */
export async function stopMachines(
  request: StopRequest,
  port: Pick<MachinePort, 'status' | 'stop' | 'discard'>,
): Promise<readonly string[]> {
  const { machines } = await port.status();
  const names =
    request.all === true
      ? machines
          .filter(({ state }) => state !== 'stopped' && state !== 'failed' && state !== 'suspended')
          .map((machine) => machine.name)
      : request.names;
  for (const name of names) assertName(name);
  const suspended = machines.filter(({ state }) => state === 'suspended').map(({ name }) => name);
  if (request.discard !== true) {
    for (const name of names)
      if (suspended.includes(name))
        throw new CollectiveError(
          'suspended',
          `${name} is suspended: nothing of it runs. What it had in memory is kept.`,
        );
  }
  // All at once: each guest takes its own time to shut down.
  await Promise.all(
    names.map(async (name) =>
      suspended.includes(name)
        ? port.discard(name)
        : port.stop(name, { force: request.force === true, wait: request.wait !== false }),
    ),
  );
  return names;
}

/** Errors: `usage`. */
export function assertName(name: string): void {
  if (!isApplianceName(name)) throw new CollectiveError('usage', `"${name}" is no appliance.`);
}
