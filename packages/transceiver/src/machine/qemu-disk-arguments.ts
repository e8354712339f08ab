/** The disks among QEMU's arguments: NBD clients of the block path, and the drives that the guest sees. */
import type { MachineDescription } from '@collective/shared';
import { json, type JsonOption } from './qemu-option.js';
import { type MachineSession, type SessionDisk, sessionPaths } from './machine-session.js';

/**
 * How long QEMU keeps a request while the block path is away. Its restart takes under a second and the listening
 * socket is held meanwhile, so that the reconnect waits in the backlog; after this time the request fails, which pauses
 * the machine and is not seen by the guest.
 */
export const RECONNECT_DELAY_S = 10;

/** The longest serial number that virtio-blk and ATA have room for. */
export const SERIAL_CHARS_MAX = 20;

export function diskArguments(description: MachineDescription, session: MachineSession): string[] {
  const { disks } = session;
  // The q35 board has an AHCI controller of its own, whose ports are the buses ide.0 to ide.5; a pc gets one when needed.
  const needsAhci = description.chipset === 'pc' && disks.some(({ bus }) => bus === 'sata');
  return [
    ...(needsAhci ? ['-device', json({ driver: 'ich9-ahci', id: 'ahci0' })] : []),
    ...disks.flatMap((disk, index) => [
      '-blockdev',
      json(nodeOption(disk, session)),
      '-device',
      json(driveOption(disk, { bootIndex: index + 1, place: busPlace(disks, index, description.chipset) })),
    ]),
  ];
}

const nodeOption = (disk: SessionDisk, session: MachineSession): JsonOption => ({
  driver: 'nbd',
  'node-name': `disk-${disk.name}`,
  server: { type: 'unix', path: sessionPaths(session.folder).diskSocket(disk.name) },
  'reconnect-delay': RECONNECT_DELAY_S,
  'open-timeout': RECONNECT_DELAY_S, // a block path that is just being restarted is waited for at the start as well
  discard: 'unmap', // a guest's trim reaches the overlay, which gives the space back
});

const driveOption = (disk: SessionDisk, at: { bootIndex: number; place: JsonOption }): JsonOption => ({
  ...at.place,
  id: `drive-${disk.name}`,
  drive: `disk-${disk.name}`,
  serial: disk.name.slice(0, SERIAL_CHARS_MAX), // /dev/disk/by-id/…-NAME in the guest
  bootindex: at.bootIndex,
  // An error pauses the machine and the guest never sees it: the supervisor says why and goes on when the block is there.
  rerror: 'stop',
  werror: 'stop',
  'write-cache': 'on', // the guest flushes when it means it
});

/** Where the disk sits: disks of one bus fill it in the order of the manifest. */
function busPlace(disks: readonly SessionDisk[], index: number, chipset: MachineDescription['chipset']): JsonOption {
  const bus = disks[index]?.bus ?? 'virtio';
  const position = disks.slice(0, index).filter((earlier) => earlier.bus === bus).length;
  switch (bus) {
    case 'virtio':
      return { driver: 'virtio-blk-pci' };
    case 'sata':
      return { driver: 'ide-hd', bus: `${chipset === 'q35' ? 'ide' : 'ahci0'}.${position}`, unit: 0 };
    case 'ide':
      return { driver: 'ide-hd', bus: `ide.${position >> 1}`, unit: position & 1 };
    default:
      return bus satisfies never;
  }
}
