/**
 * A disk that a running guest is shown, read-only, and that is taken away again. As a virtio disk where the guest has others, on a slot that is
 * kept free for it; else by USB, where the machine has a controller: every system knows such a stick.
 */
import { CollectiveError, type MachineDescription } from '@collective/shared';
import { RECONNECT_DELAY_S, SERIAL_CHARS_MAX } from './qemu-disk-arguments.js';
import type { DiskBus } from './machine-session.js';
import type { QemuProcess } from './qemu-process.js';
import type { QmpEvent } from './qmp-client.js';

/** QEMU connects to the block path before it answers. */
const ADD_TIMEOUT_MS = 15_000;
/** A guest has to let go of a disk on PCI. */
const LET_GO_MS = 10_000;

export type HotDisk = { readonly name: string; readonly socketPath: string };
/** What the machine has already. */
export type HotPlace = {
  readonly description: MachineDescription;
  readonly disks: readonly { readonly bus: DiskBus }[];
};

const nodeOf = (name: string): string => `disk-${name}`;
const deviceOf = (name: string): string => `drive-${name}`;

/** Errors: `bad-machine` where it has no place, `local-io` when QEMU refuses; nothing is left of it then. */
export async function plugDisk({ qmp }: QemuProcess, { name, socketPath }: HotDisk, machine: HotPlace): Promise<void> {
  const place = placeOf(machine);
  await qmp.execute(
    'blockdev-add',
    {
      driver: 'nbd',
      'node-name': nodeOf(name),
      'read-only': true,
      server: { type: 'unix', path: socketPath },
      'reconnect-delay': RECONNECT_DELAY_S,
    },
    { timeoutMs: ADD_TIMEOUT_MS },
  );
  try {
    await qmp.execute('device_add', {
      ...place,
      id: deviceOf(name),
      drive: nodeOf(name),
      serial: name.slice(0, SERIAL_CHARS_MAX),
      // As every drive: an outage is a pause and no error.
      rerror: 'stop',
      werror: 'stop',
    });
  } catch (error) {
    await qmp.execute('blockdev-del', { 'node-name': nodeOf(name) }).catch(() => undefined);
    throw error;
  }
}

/** Resolves when the guest has no disk of that name any more. Errors: `in-use` when it does not let go of it, `local-io`. */
export async function unplugDisk(qemu: QemuProcess, name: string): Promise<void> {
  const gone = deviceGone(qemu, deviceOf(name));
  try {
    const isThere = await qemu.qmp.execute('device_del', { id: deviceOf(name) }).then(
      () => true,
      // Gone already, when an earlier try has ended late.
      (error: unknown) => {
        if (error instanceof CollectiveError && error.data['qmpClass'] === 'DeviceNotFound') return false;
        throw error;
      },
    );
    if (isThere && !(await gone.within(LET_GO_MS)))
      throw new CollectiveError('in-use', `The guest does not let go of ${name}: unmount it there first.`);
    await qemu.qmp.execute('blockdev-del', { 'node-name': nodeOf(name) }).catch((error: unknown) => {
      if (!(error instanceof CollectiveError && error.data['qmpClass'] === 'GenericError')) throw error;
    });
  } finally {
    gone.stop();
  }
}

function placeOf({ description, disks }: HotPlace): Readonly<Record<string, string>> {
  const { chipset, display } = description;
  if (disks.some(({ bus }) => bus === 'virtio'))
    return { driver: 'virtio-blk-pci', bus: chipset === 'q35' ? HOT_SLOT : 'pci.0' };
  if (display !== 'none') return { driver: 'usb-storage', bus: 'usb0.0' };
  throw new CollectiveError(
    'bad-machine',
    'This machine has no place for one more disk while it runs: serve the snapshot over NBD with --socket.',
  );
}

/** A q35 board takes new PCI devices on root ports only (qemu-arguments.ts). */
export const HOT_SLOT = 'hot0';

function deviceGone(qemu: QemuProcess, device: string) {
  let isGone = false;
  let wake = (): void => undefined;
  const look = ({ name, data }: QmpEvent): void => {
    if (name !== 'DEVICE_DELETED' || data['device'] !== device) return;
    isGone = true;
    wake();
  };
  qemu.on('qmp', look);
  return {
    within: async (milliseconds: number): Promise<boolean> => {
      if (isGone) return true;
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        wake = resolve;
        timer = setTimeout(resolve, milliseconds);
      });
      clearTimeout(timer);
      return isGone;
    },
    stop: (): void => void qemu.off('qmp', look),
  };
}
