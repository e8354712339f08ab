/**
 * Snapshot manifest, format 1 (docs/formats/manifest.md): the payload of an envelope that a device key of the person
 * signs. The format is frozen; what takes snapshots comes with the user disks.
 */
import { type Static, Type } from '@collective/schema';
import { type Digest } from './brands.js';
import { checkDisks, snapshotDiskSchema } from './disk-description.js';
import { documentCodec } from './document.js';
import { ENVELOPE_BYTES_MAX } from './envelope.js';
import { CollectiveError } from './errors.js';
import {
  NUMBER_MAX,
  digestField,
  integerField,
  nameField,
  nullable,
  numberField,
  secondsField,
  strictObject,
  textField,
  wordField,
} from './schema-fields.js';

/**
 * User disks of one subscription: those of the version that runs, and those that only an earlier one had. More than a
 * machine takes, because none ever leaves the snapshots.
 */
export const SNAPSHOT_USER_DISKS_MAX = 32;

export const memoryImageSchema = strictObject({
  qemu: textField({ min: 1, max: 100 }),
  machineType: textField({ min: 1, max: 60 }),
  cpuModel: textField({ min: 1, max: 60 }),
  accelerator: wordField('kvm', 'tcg'),
  ramBytes: integerField({ min: 1_048_576, max: 2 ** 44 }),
  /** Private chunks of at most 1 MiB, in order. */
  deviceState: Type.Array(digestField, { minItems: 1, maxItems: 256 }),
  layers: Type.Array(digestField, { maxItems: 64 }),
  userHead: digestField,
});
export type MemoryImage = Static<typeof memoryImageSchema>;

export const SNAPSHOT_REASONS = ['start', 'stop', 'periodic', 'request', 'update', 'suspend', 'undo'] as const;
export type SnapshotReason = (typeof SNAPSHOT_REASONS)[number];

/** Which version wrote a user disk. */
export const writtenByField = strictObject({ appliance: nameField, version: numberField, manifest: digestField });

export const snapshotManifestSchema = strictObject({
  format: Type.Literal(1),
  subscription: Type.String({ pattern: '^[0-9a-f]{32}$' }),
  number: numberField,
  parent: nullable(strictObject({ number: numberField, manifest: digestField })),
  createdAt: secondsField,
  reason: wordField(...SNAPSHOT_REASONS),
  /** Fencing number; 0 when made disconnected. */
  lease: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  device: digestField,
  epoch: numberField,
  writtenBy: writtenByField,
  disks: Type.Array(snapshotDiskSchema, { minItems: 1, maxItems: SNAPSHOT_USER_DISKS_MAX + 1 }),
  objects: Type.Array(integerField({ min: 1, max: NUMBER_MAX }), { maxItems: 10_000 }),
  memory: nullable(memoryImageSchema),
});
export type SnapshotManifest = Static<typeof snapshotManifestSchema>;

const codec = documentCodec(snapshotManifestSchema, {
  what: 'snapshot manifest',
  bytesMax: ENVELOPE_BYTES_MAX,
  rules: (manifest) => {
    checkDisks(manifest.disks);
    if (manifest.parent !== null && manifest.parent.number >= manifest.number) {
      throw malformed(`snapshot ${manifest.number} cannot follow ${manifest.parent.number}`);
    }
    if (manifest.objects.some((object, at) => object <= (manifest.objects[at - 1] ?? 0) || object > manifest.number)) {
      throw malformed('objects do not ascend, or one is of a later snapshot');
    }
    const memoryDisks = manifest.disks.filter(({ kind }) => kind === 'memory');
    if (memoryDisks.length !== (manifest.memory === null ? 0 : 1)) {
      throw malformed(`${memoryDisks.length} memory disks do not go with the memory image`);
    }
    if (manifest.memory !== null && memoryDisks[0]?.diskBytes !== manifest.memory.ramBytes) {
      throw malformed('the memory disk does not have the size of the RAM');
    }
  },
});

export const encodeSnapshotManifest = (manifest: SnapshotManifest): Buffer => codec.encode(manifest);

/** The manifest in a payload whose signatures have been verified. Errors: `malformed`, `unknown-format`, `too-large`. */
export const decodeSnapshotManifest = (payload: Uint8Array): SnapshotManifest => codec.decode(payload);

/** Private chunks that the manifest itself names, and no map: of the device state, and the boot traces of its disks. */
export const chunksBesideMaps = ({ memory, disks }: SnapshotManifest): Digest[] => [
  ...(memory?.deviceState ?? []),
  ...disks.flatMap(({ trace }) => (trace === undefined ? [] : [trace])),
];

const malformed = (message: string): CollectiveError =>
  new CollectiveError('malformed', `snapshot manifest: ${message}`);
