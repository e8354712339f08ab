/** `start` of a machine that may be suspended: it goes on where it stood, or what it had in memory is thrown away first. */
import { CollectiveError, hasCode } from '@collective/shared';
import type { JobContext } from './agent-server.js';
import type { StartedMachine } from './agent-types.js';
import type { DiskKeyRing } from './disk-key-ring.js';
import type { BlockKeys } from '../blockd/private/block-key-ring.js';
import type { BlockOrigin, MachinePort } from './machine-port.js';
import type { parseReference } from './reference.js';

/**
 * Undefined for one that is to be started: it was not suspended, or is not any more (`isFresh`). It goes on as the version that it was,
 * whatever is newest. Errors: `suspended` when another version is named, `cannot-resume`, `wrong-key`.
 */
export async function resumeIfSuspended(
  machines: Pick<MachinePort, 'suspended' | 'resume' | 'discard'>,
  { name, version }: ReturnType<typeof parseReference>,
  options: {
    readonly blocks: BlockOrigin;
    readonly diskKeys: DiskKeyRing;
    readonly blockKeys?: BlockKeys;
    readonly isFresh: boolean;
    readonly job: JobContext;
  },
): Promise<StartedMachine | undefined> {
  const { blocks, diskKeys, blockKeys, isFresh, job } = options;
  const suspended = (await machines.suspended()).find((machine) => machine.name === name);
  if (suspended === undefined) {
    // One that cannot be read is not among them, and the supervisor starts nothing over it.
    if (isFresh) await machines.discard(name).catch(unlessThereIsNone);
    return undefined;
  }
  const when = new Date(suspended.suspendedAtMs).toLocaleString();
  if (isFresh) {
    job.emit({ event: 'note', text: `The memory of ${name}, suspended ${when}, is thrown away; its disks stay.` });
    await machines.discard(name);
    return undefined;
  }
  if (version !== undefined && version !== suspended.version)
    throw new CollectiveError('suspended', `${name} is suspended at version ${String(suspended.version)}.`);
  job.emit({ event: 'progress', step: 'resume', text: `Resuming ${name}, suspended ${when}` });
  await machines.resume(name, { blocks, diskKeys, ...(blockKeys === undefined ? {} : { blockKeys }) }, job.signal);
  return { name, version: suspended.version, resumed: true, notes: [] };
}

const unlessThereIsNone = (error: unknown): void => {
  if (!hasCode(error, 'not-found') && !hasCode(error, 'conflict')) throw error;
};
