/**
 * A disk in a manifest (docs/formats/manifest.md): its name, size and the root of its map. The order in the manifest is
 * the order on the bus.
 */
import { type Static, Type } from '@collective/schema';
import { isBlockBytes, isDiskBytes } from './disk-shape.js';
import { CollectiveError } from './errors.js';
import {
  DISK_NAME_PATTERN,
  digestField,
  diskNameField,
  integerField,
  nullable,
  strictObject,
  wordField,
} from './schema-fields.js';

const DISK_NAME = new RegExp(DISK_NAME_PATTERN, 'u');

/** Lower-case letters, digits and hyphens, 1 to 31, a letter first. */
export const isDiskName = (text: string): boolean => DISK_NAME.test(text);

const commonFields = {
  bus: wordField('virtio', 'sata', 'ide'),
  diskBytes: integerField({ min: 512, max: 2 ** 44 }),
  blockBytes: integerField({ min: 4_096, max: 1_048_576 }),
  root: nullable(digestField),
};

export const versionDiskSchema = strictObject({
  name: diskNameField,
  kind: wordField('system', 'user', 'ephemeral'),
  ...commonFields,
  base: Type.Null(),
});
/** A disk of a version. `root` null: all zero (always so for kind ephemeral). */
export type DiskDescription = Static<typeof versionDiskSchema>;

export const snapshotDiskSchema = strictObject({
  name: diskNameField,
  kind: wordField('user', 'memory'),
  ...commonFields,
  base: nullable(digestField),
  /** The private chunk with the boot trace of a user disk; absent: none. */
  trace: Type.Optional(digestField),
});
/** A disk of a snapshot: a user disk, or memory (RAM as one more disk; its `bus` says nothing and is virtio). */
export type SnapshotDisk = Static<typeof snapshotDiskSchema>;

/** What the schema cannot say. Errors: `malformed`. */
export const checkDisks = (disks: readonly (DiskDescription | SnapshotDisk)[]): void => {
  if (new Set(disks.map(({ name }) => name)).size !== disks.length) throw malformed('two disks have one name');
  for (const disk of disks) {
    if (!isDiskBytes(disk.diskBytes)) throw malformed(`disk ${disk.name} has ${disk.diskBytes} bytes`);
    if (!isBlockBytes(disk.blockBytes)) throw malformed(`disk ${disk.name} has blocks of ${disk.blockBytes} bytes`);
    if (disk.kind === 'ephemeral' && disk.root !== null) throw malformed(`ephemeral disk ${disk.name} has a root`);
    if (disk.kind === 'memory' && disk.trace !== undefined) throw malformed(`memory ${disk.name} has a boot trace`);
    if (disk.kind === 'memory' && (disk.blockBytes !== 4_096 || disk.bus !== 'virtio')) {
      throw malformed(`memory ${disk.name} does not have blocks of 4,096 bytes on virtio`);
    }
  }
};

const malformed = (message: string): CollectiveError => new CollectiveError('malformed', `manifest: ${message}`);
