/**
 * QEMU's arguments: a pure function of the machine description and the session. Every option is here with its reason;
 * nothing that a publisher wrote reaches the command line except numbers in a range, words of a list and disk names of
 * `[a-z0-9-]`.
 *
 * Disks and devices are given as JSON, where a comma in a path is only a comma; the older options double it.
 */
import { CollectiveError, checkMachineDisks, type MachineDescription } from '@collective/shared';
import type { Accelerator } from './accelerator.js';
import { HOT_SLOT } from './hot-disk.js';
import { diskArguments } from './qemu-disk-arguments.js';
import { json, option } from './qemu-option.js';
import { type MachineSession, sessionPaths } from './machine-session.js';

/**
 * Named versions: an alias such as `q35` means another machine in the next QEMU, and a suspended guest, or a licensed
 * one, would find other hardware.
 */
export const MACHINE_TYPES = { q35: 'pc-q35-7.2', pc: 'pc-i440fx-7.2' } as const;

/**
 * x86-64-v2 with AES and carry-less multiplication, which every processor since 2010 has (2011 for AMD) and TCG has too;
 * `enforce` makes QEMU refuse to start where a feature is missing, so that the name never lies to a memory image.
 * The same on both accelerators (ADR 0005: TCG boots as fast with it as with `max`).
 */
export const CPU_MODEL = 'Westmere-v1';

/** QEMU's trace event of a shutdown and its cause; a reset has none (QEMU 7.2). */
export const SHUTDOWN_TRACE = 'qemu_system_shutdown_request';

/** Among the words of a QEMU that was started for a suspended machine (find-qemu.ts). */
export const INCOMING = '-incoming';

/** QEMU's name for the guest's memory; the block's name in a memory image's device state. */
const MEMORY_ID = 'ram0';

export function qemuArguments(description: MachineDescription, session: MachineSession): string[] {
  checkMachineDisks(description, session.disks);
  return [
    ...processArguments(session),
    ...boardArguments(description, session),
    ...firmwareArguments(description, session),
    ...controlArguments(session),
    ...diskArguments(description, session),
    ...networkArguments(description, session),
    ...displayArguments(description, session),
    ...guestServiceArguments(description, session),
    ...hotSlotArguments(description, session),
  ];
}

function processArguments(session: MachineSession): string[] {
  return [
    ...['-name', option(`collective-${session.machine}`, { 'debug-threads': 'on' })], // threads are named in ps and top
    '-nodefaults', // no device that is not named below
    '-no-user-config', // no file of the host adds one
    // A broken-into QEMU may not start programs, change its user or its priorities, nor use odd old system calls.
    ...[
      '-sandbox',
      option('on', { obsolete: 'deny', elevateprivileges: 'deny', spawn: 'deny', resourcecontrol: 'deny' }),
    ],
    // A guest that reboots, shuts down or panics stands still, and the supervisor ends QEMU: one that comes only then (it was killed)
    // finds out which it was. After a reboot it starts QEMU again with a fresh system overlay.
    ...[
      '-action',
      option(undefined, { reboot: 'shutdown', shutdown: 'pause', panic: 'shutdown', watchdog: 'shutdown' }),
    ],
    ...(session.isResumed === true ? [INCOMING, 'defer'] : []), // its state comes from a memory image
    ...['-trace', option(undefined, { enable: SHUTDOWN_TRACE })], // a line on stderr when the guest asks to be switched off
    '-S', // nothing runs before QMP and the console are connected: no line of the boot is lost
    ...['-msg', 'timestamp=on'], // stderr with times
    ...['-display', 'none'], // no window of its own: the display goes through VNC
  ];
}

function boardArguments(description: MachineDescription, session: MachineSession): string[] {
  return [
    // The memory in a file that has no name and lies in memory (memfd): suspending reads it from outside while QEMU writes only the
    // devices' state. A file on a disk would be written back for ever (ADR 0012); it is no more of the host's disk than usual memory.
    ...[
      '-object',
      json({
        'qom-type': 'memory-backend-memfd',
        id: MEMORY_ID,
        size: description.memoryBytes,
        share: true,
        dump: false,
        merge: false,
      }),
    ],
    '-machine',
    option(MACHINE_TYPES[description.chipset], {
      'memory-backend': MEMORY_ID,
      vmport: 'off', // a door to VMware tools: nobody needs it
      'dump-guest-core': 'off', // a crash of QEMU never writes the guest's memory to the host's disk
      'mem-merge': 'off', // no sharing of pages between guests: it leaks by timing
      ...(description.firmware === 'uefi' ? { pflash0: 'uefi-code', pflash1: 'uefi-vars' } : {}),
    }),
    ...['-accel', acceleratorOption(session.accelerator)],
    ...['-cpu', option(CPU_MODEL, { enforce: 'on' })],
    ...['-smp', option(undefined, { cpus: description.cpus, sockets: 1, cores: description.cpus, threads: 1 })], // one socket: desktop editions count sockets
    ...['-m', option(undefined, { size: `${description.memoryBytes / 1_048_576}M` })],
    ...['-uuid', session.uuid], // of the subscription, so that licences and DHCP leases follow the person
    // The clock of the host (so it is right after a pause); `slew` makes up for ticks that were lost while QEMU waited.
    ...['-rtc', option(undefined, { base: description.clock, clock: 'host', driftfix: 'slew' })],
    ...['-boot', option(undefined, { strict: 'on', menu: 'off' })], // only from the disks below, in their order, without asking
    // A guest that goes to sleep by itself would look like a hang: suspending is ours to do.
    ...(description.chipset === 'q35'
      ? ['-global', 'ICH9-LPC.disable_s3=1', '-global', 'ICH9-LPC.disable_s4=1']
      : ['-global', 'PIIX4_PM.disable_s3=1', '-global', 'PIIX4_PM.disable_s4=1']),
  ];
}

// thread=single: with a thread for each virtual processor QEMU 7.2 can go on running a translation of code that another processor has just
// changed, and a Linux guest, which changes its own, hangs without a word: about one start in two hundred (ADR 25).
const acceleratorOption = (accelerator: Accelerator): string =>
  accelerator === 'kvm' ? 'kvm' : option('tcg', { thread: 'single' });

/** UEFI: the code read-only and shared, the variables a fresh copy in the session's folder. BIOS is QEMU's own. */
function firmwareArguments(description: MachineDescription, session: MachineSession): string[] {
  if (description.firmware === 'bios') return [];
  if (session.uefiCode === undefined) throw new CollectiveError('missing-program', 'No UEFI firmware for this machine');
  const file = (node: string, filename: string, readOnly: boolean): string[] => [
    '-blockdev',
    json({
      driver: 'raw',
      'node-name': node,
      'read-only': readOnly,
      file: { driver: 'file', filename, 'read-only': readOnly },
    }),
  ];
  return [...file('uefi-code', session.uefiCode, true), ...file('uefi-vars', sessionPaths(session.folder).vars, false)];
}

/** QMP twice (ours and a spare), and the serial port: listening sockets that wait for nobody. */
function controlArguments(session: MachineSession): string[] {
  const paths = sessionPaths(session.folder);
  return [
    ...controlListener(paths.qmp),
    ...['-mon', option(undefined, { chardev: 'qmp', mode: 'control' })],
    ...listener('qmp-spare', paths.qmpSpare),
    ...['-mon', option(undefined, { chardev: 'qmp-spare', mode: 'control' })],
    // No `logfile=`: QEMU would let it grow without bound. The supervisor reads the socket and keeps the tail.
    ...listener('serial', paths.serial),
    ...['-device', json({ driver: 'isa-serial', id: 'serial0', chardev: 'serial' })],
  ];
}

/** The words for the first control socket: they tell whose QEMU a process is (find-qemu.ts). */
export const controlListener = (path: string): string[] => listener('qmp', path);

const listener = (id: string, path: string): string[] => [
  '-chardev',
  option('socket', { id, path, server: 'on', wait: 'off' }),
];

function networkArguments(description: MachineDescription, session: MachineSession): string[] {
  if (description.network === 'none') return [];
  return [
    '-netdev',
    json({ type: 'user', id: 'net0', restrict: session.restrictNetwork }),
    '-device',
    json({
      driver: description.network === 'virtio' ? 'virtio-net-pci' : 'e1000',
      id: 'nic0',
      netdev: 'net0',
      mac: session.macAddress,
      romfile: '', // no network boot: the option ROM only costs time and could start something else
    }),
  ];
}

function displayArguments(description: MachineDescription, session: MachineSession): string[] {
  if (description.display === 'none') return [];
  // A system without drivers for xHCI is given the oldest controller; it polls, so not more often than it must.
  const controller = description.chipset === 'q35' ? 'qemu-xhci' : 'piix3-usb-uhci';
  return [
    '-device',
    json({ driver: description.display === 'virtio' ? 'virtio-vga' : 'VGA', id: 'video0' }),
    // On a socket in the session's folder, so without a password; a second viewer never throws out the first.
    ...['-vnc', option(`unix:${sessionPaths(session.folder).vnc}`, { share: 'force-shared' })],
    ...['-device', json({ driver: controller, id: 'usb0' })],
    ...['-device', json({ driver: 'usb-tablet', id: 'tablet0', bus: 'usb0.0' })], // absolute pointer: no grabbing
  ];
}

function guestServiceArguments(description: MachineDescription, session: MachineSession): string[] {
  const withoutVirtio = description.network === 'e1000' && session.disks.every(({ bus }) => bus !== 'virtio');
  return [
    // Entropy before the first key is made; a system without virtio drivers would only show an unknown device.
    ...(withoutVirtio
      ? []
      : [
          '-object',
          json({ 'qom-type': 'rng-builtin', id: 'rng0' }),
          '-device',
          json({ driver: 'virtio-rng-pci', rng: 'rng0' }),
        ]),
    ...(description.guestAgent
      ? [
          ...listener('agent', sessionPaths(session.folder).agent),
          ...['-device', json({ driver: 'virtio-serial-pci', id: 'virtserial0' })],
          ...[
            '-device',
            json({ driver: 'virtserialport', bus: 'virtserial0.0', chardev: 'agent', name: 'org.qemu.guest_agent.0' }),
          ],
        ]
      : []),
    // Tells the guest that its past may not be its present (a copy, an older state): it draws new random seeds.
    ...['-device', json({ driver: 'vmgenid', guid: session.generationId })],
  ];
}

/** Where a virtio disk can be added while the guest runs (hot-disk.ts). Last, so that no other device moves to another slot for it. */
const hotSlotArguments = ({ chipset }: MachineDescription, { disks }: MachineSession): string[] =>
  chipset === 'q35' && disks.some(({ bus }) => bus === 'virtio')
    ? ['-device', json({ driver: 'pcie-root-port', id: HOT_SLOT, chassis: 1 })]
    : [];
