/**
 * Version manifest, format 1 (docs/formats/manifest.md): the payload of an envelope that a publishing key signs. The
 * manifest is the commit: it is created exclusively and last, and names the manifest before it.
 */
import { type Static, Type } from '@collective/schema';
import { checkDisks, versionDiskSchema } from './disk-description.js';
import { documentCodec } from './document.js';
import { ENVELOPE_BYTES_MAX } from './envelope.js';
import { CollectiveError } from './errors.js';
import {
  MACHINE_LIMITS,
  checkMachineDescription,
  checkMachineDisks,
  machineDescriptionSchema,
} from './machine-description.js';
import {
  NAME_PATTERN,
  digestField,
  nameField,
  nullable,
  numberField,
  secondsField,
  strictObject,
  textField,
} from './schema-fields.js';

export const versionManifestSchema = strictObject({
  format: Type.Literal(1),
  appliance: nameField,
  version: numberField,
  parent: nullable(strictObject({ version: numberField, manifest: digestField })),
  createdAt: secondsField,
  /** For named people only, until a letter for all promotes it; absent: for all. */
  candidate: Type.Optional(Type.Literal(true)),
  title: textField({ max: 200 }),
  notes: textField({ max: 4_000 }),
  machine: machineDescriptionSchema,
  disks: Type.Array(versionDiskSchema, { minItems: 1, maxItems: MACHINE_LIMITS.disksMax }),
});
export type VersionManifest = Static<typeof versionManifestSchema>;

const APPLIANCE_NAME = new RegExp(NAME_PATTERN, 'u');

/** Lower-case letters, digits and hyphens, 1 to 63, not beginning with a hyphen. */
export const isApplianceName = (text: string): boolean => APPLIANCE_NAME.test(text);

const codec = documentCodec(versionManifestSchema, {
  what: 'version manifest',
  bytesMax: ENVELOPE_BYTES_MAX,
  // Before the schema, so that a machine that may not run is told apart from a damaged manifest.
  before: (value) => {
    if (typeof value === 'object' && value !== null && 'machine' in value) checkMachineDescription(value.machine);
  },
  rules: (manifest) => {
    checkDisks(manifest.disks);
    checkMachineDisks(manifest.machine, manifest.disks);
    if (manifest.disks.filter(({ kind }) => kind === 'system').length !== 1) {
      throw new CollectiveError('malformed', 'version manifest: there must be exactly one system disk');
    }
    if (manifest.parent !== null && manifest.parent.version >= manifest.version) {
      throw new CollectiveError(
        'malformed',
        `version manifest: version ${manifest.version} cannot follow version ${manifest.parent.version}`,
      );
    }
  },
});

/** The payload to sign. Errors: as `decodeVersionManifest`. */
export const encodeVersionManifest = (manifest: VersionManifest): Buffer => codec.encode(manifest);

/** The manifest in a payload whose signatures have been verified. Errors: `malformed`, `unknown-format`, `too-large`, `bad-machine`. */
export const decodeVersionManifest = (payload: Uint8Array): VersionManifest => codec.decode(payload);
