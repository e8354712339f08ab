/**
 * What the agent asks for when it starts a machine, and the durable record of one that runs, from which the supervisor after a
 * crash finds it again (HOME/machines/MACHINE/machine.json).
 */
import {
  machineDescriptionSchema,
  diskNameField,
  integerField,
  strictObject,
  wordField,
  type MachineDescription,
} from '@collective/shared';
import { type Static, Type } from '@collective/schema';
import { CONTROL_METHODS } from '../blockd/control/control-protocol.js';
import { ACCELERATOR_CHOICES } from '../machine/accelerator.js';

const hexPairs = '[0-9a-f]{2}(:[0-9a-f]{2}){5}';
const uuidField = Type.String({ pattern: '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' });
/** Names the machine's folders and blockd's session. */
export const machineIdField = Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,62}$' });

const machineDiskSchema = strictObject({
  name: diskNameField,
  bus: wordField('virtio', 'sata', 'ide'),
  /** As in blockd's `attach`. */
  source: CONTROL_METHODS.attach.properties.source,
  /** `temporary`: fresh at each start and reboot, deleted at the end. Absent: the disk is read-only. The path must lie in the home. */
  overlay: Type.Optional(
    strictObject({
      path: Type.String({ minLength: 1, maxLength: 4096, pattern: '^/' }),
      mode: wordField('temporary', 'persistent'),
    }),
  ),
  /** As in blockd's `attach`, of a user disk. The path must lie in the home. */
  trace: CONTROL_METHODS.attach.properties.trace,
});

export const machineSpecSchema = strictObject({
  machine: machineIdField,
  description: machineDescriptionSchema,
  /** In the order of the manifest. */
  disks: Type.Array(machineDiskSchema, { minItems: 1, maxItems: 8 }),
  /** Of the subscription. */
  uuid: uuidField,
  macAddress: Type.String({ pattern: `^${hexPairs}$` }),
  accelerator: Type.Optional(wordField(...ACCELERATOR_CHOICES)),
  /** True (maintain): a reboot of the guest keeps its temporary overlays. Default false. */
  keepSystemOverlay: Type.Optional(Type.Boolean()),
  /** True: no network beyond QEMU. Default false. */
  restrictNetwork: Type.Optional(Type.Boolean()),
});
export type MachineSpec = Static<typeof machineSpecSchema>;
export type MachineDisk = MachineSpec['disks'][number];
export type { MachineDescription };

/** A disk that a running guest is shown beside its own, read-only. */
const shownDiskSchema = strictObject({ name: diskNameField, source: CONTROL_METHODS.attach.properties.source });
export type ShownDisk = Static<typeof shownDiskSchema>;
export const shownDiskProperties = shownDiskSchema.properties;

const identitySchema = strictObject({
  pid: integerField({ min: 1, max: 2 ** 31 - 1 }),
  startTicks: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  boot: Type.String({ maxLength: 64 }),
});

export const machineRecordSchema = strictObject({
  format: Type.Literal(1),
  spec: machineSpecSchema,
  /** The session's folder (machine/machine-session.ts). */
  folder: Type.String({ maxLength: 4096 }),
  user: Type.Union([
    strictObject({ uid: integerField({ min: 1, max: 2 ** 31 }), gid: integerField({ min: 1, max: 2 ** 31 }) }),
    Type.Null(),
  ]),
  accelerator: wordField('kvm', 'tcg'),
  startedAtMs: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  restarts: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  /** Null: QEMU is not running (yet). */
  qemu: Type.Union([identitySchema, Type.Null()]),
  /** Absent: none. */
  shown: Type.Optional(Type.Array(shownDiskSchema, { maxItems: 8 })),
});
export type MachineRecord = Static<typeof machineRecordSchema>;
