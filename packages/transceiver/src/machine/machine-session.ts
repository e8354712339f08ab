/**
 * What one run of a machine needs beside its description: where its sockets are, who it is, what runs it. The supervisor
 * makes it; QEMU's arguments are a pure function of the description and this.
 *
 * ```
 * FOLDER                the machine's: root or person, entered by QEMU's group only                    0710
 *   d/.state            while it is suspended: where QEMU brings the devices' state
 *   d/NAME              one NBD listening socket a disk, held by the supervisor, QEMU may connect      0660
 *   q/                  QEMU's own, fresh at each start                                                0700
 *     qmp.sock          the supervisor's QMP connection
 *     qmp2.sock         a spare one: for the supervisor that comes after a crash, and for people who look
 *     serial.sock       the first serial port      agent.sock   the guest agent's channel
 *     vnc.sock          the display         state.sock     while it is resumed: where QEMU takes the devices' state
 *     vars.fd           UEFI variables, a fresh copy of the firmware's
 *     stderr.log        what QEMU says (append only, bounded by the file size limit)
 * ```
 */
import { join } from 'node:path';
import type { Accelerator } from './accelerator.js';

export type DiskBus = 'virtio' | 'sata' | 'ide';

export type SessionDisk = {
  /** As in the manifest; QEMU's node name, and the drive's serial number in the guest (its first 20 characters: the limit of all three buses). */
  readonly name: string;
  readonly bus: DiskBus;
};

export type MachineSession = {
  /** The machine's id: lower-case hex digits. */
  readonly machine: string;
  readonly folder: string;
  /** In the order of the manifest, which is the order on the bus. */
  readonly disks: readonly SessionDisk[];
  /** Of the subscription. */
  readonly uuid: string;
  /** Of the subscription: six lower-case hex pairs. */
  readonly macAddress: string;
  /** New whenever the guest's past is not its present: at each start. */
  readonly generationId: string;
  readonly accelerator: Accelerator;
  /** True: the guest's network ends at QEMU (no Internet either). */
  readonly restrictNetwork: boolean;
  /** True: QEMU waits for the state of a suspended machine instead of beginning with the firmware. */
  readonly isResumed?: boolean;
  /** Firmware code file (read-only) of a UEFI machine. */
  readonly uefiCode?: string;
};

export type SessionPaths = ReturnType<typeof sessionPaths>;

export function sessionPaths(folder: string) {
  const own = join(folder, 'q');
  return {
    folder,
    disksFolder: join(folder, 'd'),
    // Short: with the longest disk name it is 34 bytes, and a unix socket's path has at most 107.
    diskSocket: (name: string): string => join(folder, 'd', name),
    // No disk's name begins with a point.
    stateOut: join(folder, 'd', '.state'),
    own,
    stateIn: join(own, 'state.sock'),
    qmp: join(own, 'qmp.sock'),
    qmpSpare: join(own, 'qmp2.sock'),
    serial: join(own, 'serial.sock'),
    agent: join(own, 'agent.sock'),
    vnc: join(own, 'vnc.sock'),
    vars: join(own, 'vars.fd'),
    stderr: join(own, 'stderr.log'),
  } as const;
}
