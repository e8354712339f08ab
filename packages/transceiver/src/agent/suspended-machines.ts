/** The agent's side of suspended machines: what is there (also when no supervisor is), suspend, resume, discard. */
import { CollectiveError, hasCode } from '@collective/shared';
import type { Home } from '../home.js';
import { MemoryImages, versionOf } from '../supervisor/memory-image.js';
import { isOver } from '../supervisor/machine-state.js';
import { SupervisorClient } from '../supervisor/supervisor-client.js';
import { chooseDiskKey, type DiskKeyRing } from './disk-key-ring.js';
import type { BlockKeys } from '../blockd/private/block-key-ring.js';
import type { BlockOrigin } from './machine-port.js';

export type SuspendedMachine = { readonly name: string; readonly version: number; readonly suspendedAtMs: number };

/** From the images themselves. */
export async function suspendedMachines(home: Home): Promise<SuspendedMachine[]> {
  const images = await new MemoryImages(home.machinesDirectory).list(() => undefined);
  return images.map(({ machine, spec, suspendedAtMs }) => ({ name: machine, version: versionOf(spec), suspendedAtMs }));
}

/** Resolves when it is suspended. Errors: `not-found`, `in-use`, `disk-full`, `local-io`: it goes on then. */
export async function suspendMachine(home: Home, name: string): Promise<void> {
  const notRunning = (cause: unknown): CollectiveError =>
    new CollectiveError('not-found', `${name} is not running.`, { cause });
  const client = await SupervisorClient.connect(home).catch((error: unknown) => {
    throw notRunning(error);
  });
  try {
    const { machines } = await client.request('status', {});
    if (!machines.some(({ machine, state }) => machine === name && !isOver(state))) throw notRunning(undefined);
    await client.request('suspend', { machine: name });
  } finally {
    client.close();
  }
}

/** Resolves when it runs. Errors: `cannot-resume` with the reason, `wrong-key`: it is still suspended then. */
export async function resumeMachine(
  home: Home,
  name: string,
  {
    blocks,
    diskKeys,
    blockKeys,
  }: { readonly blocks: BlockOrigin; readonly diskKeys: DiskKeyRing; readonly blockKeys?: BlockKeys },
  signal: AbortSignal,
): Promise<void> {
  const image = await new MemoryImages(home.machinesDirectory).read(name);
  const diskKey = chooseDiskKey(diskKeys, [image?.encryption?.keyCheck], `the memory of ${name}`);
  const client = await SupervisorClient.open(home);
  try {
    await client.request('repository', blocks);
    await client.request('resume', { machine: name, diskKey, ...(blockKeys === undefined ? {} : { blockKeys }) });
    await client
      .waitForState(name, (state) => state.name === 'running' || state.name === 'paused', signal)
      .catch(async (error: unknown) => {
        if (signal.aborted) {
          // Its memory may be in a QEMU already and no file any more: then it goes on, and nothing is lost.
          await client.request('stop', { machine: name, deadlineMs: 0, onlyIfPreparing: true }).catch(() => undefined);
          throw error;
        }
        const message = error instanceof Error ? error.message : String(error);
        throw hasCode(error, 'local-io') ? new CollectiveError('cannot-resume', message, { cause: error }) : error;
      });
  } finally {
    client.close();
  }
}

/** Throws its memory image away. */
export async function discardMachine(home: Home, name: string): Promise<void> {
  const client = await SupervisorClient.open(home);
  try {
    await client.request('discard', { machine: name });
  } finally {
    client.close();
  }
}
