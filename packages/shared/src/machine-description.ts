/**
 * Machine description (docs/formats/manifest.md): what a publisher may say of the machine that runs an appliance. Each
 * value is a number in a range or one of a few words, so it can never name a host path or a raw QEMU argument.
 */
import { type Static, Type } from '@collective/schema';
import { documentCodec } from './document.js';
import { CollectiveError } from './errors.js';
import { integerField, strictObject, wordField } from './schema-fields.js';

const MIB = 1_048_576;

export const MACHINE_LIMITS = {
  memoryBytesMin: 64 * MIB,
  memoryBytesMax: 65_536 * MIB,
  memoryBytesStep: MIB,
  cpusMin: 1,
  cpusMax: 32,
  disksMax: 8,
  /** Two channels of two drives; an AHCI controller of the chipset has six ports. */
  ideDisksMax: 4,
  sataDisksMax: 6,
} as const;

export const machineDescriptionSchema = strictObject({
  memoryBytes: integerField({ min: MACHINE_LIMITS.memoryBytesMin, max: MACHINE_LIMITS.memoryBytesMax }),
  cpus: integerField({ min: MACHINE_LIMITS.cpusMin, max: MACHINE_LIMITS.cpusMax }),
  chipset: wordField('q35', 'pc'),
  firmware: wordField('bios', 'uefi'),
  network: wordField('none', 'virtio', 'e1000'),
  display: wordField('none', 'vga', 'virtio'),
  guestAgent: Type.Boolean(),
  clock: wordField('utc', 'localtime'),
});
export type MachineDescription = Static<typeof machineDescriptionSchema>;

const codec = documentCodec(machineDescriptionSchema, {
  what: 'machine description',
  bytesMax: 4_096,
  error: 'bad-machine',
  rules: ({ memoryBytes }) => {
    if (memoryBytes % MACHINE_LIMITS.memoryBytesStep !== 0) {
      throw badMachine(`memory of ${memoryBytes} bytes is not a multiple of 1 MiB`);
    }
  },
});

/** The value, if it is a machine that may run. Errors: `bad-machine`. */
export const checkMachineDescription = (value: unknown): MachineDescription => codec.check(value);

/** Do the disks fit the machine? Errors: `bad-machine`. */
export const checkMachineDisks = (
  machine: MachineDescription,
  disks: readonly { readonly bus: 'virtio' | 'sata' | 'ide' }[],
): void => {
  const ideDisks = disks.filter(({ bus }) => bus === 'ide').length;
  const sataDisks = disks.filter(({ bus }) => bus === 'sata').length;
  if (ideDisks > 0 && machine.chipset !== 'pc') throw badMachine('IDE disks need the chipset pc');
  if (ideDisks > MACHINE_LIMITS.ideDisksMax) throw badMachine(`${ideDisks} IDE disks`);
  if (sataDisks > MACHINE_LIMITS.sataDisksMax) throw badMachine(`${sataDisks} SATA disks`);
};

const badMachine = (message: string): CollectiveError =>
  new CollectiveError('bad-machine', `machine description: ${message}`);
