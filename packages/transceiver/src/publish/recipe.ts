/**
 * What `publish --machine FILE` reads: a machine description alone, or a recipe's appliance.json with title, notes, the
 * machine and its disks. It is checked like a manifest: unknown fields are refused, and nothing in it can name a path of
 * this machine (a recipe's `file` is a plain name beside the recipe; the command line resolves it).
 */
import { Type } from '@collective/schema';
import {
  CollectiveError,
  checkMachineDescription,
  diskNameField,
  documentCodec,
  integerField,
  machineDescriptionSchema,
  nameField,
  parseStrictJson,
  strictObject,
  textField,
  wordField,
  type MachineDescription,
} from '@collective/shared';

const RECIPE_BYTES_MAX = 65_536;

const recipeSchema = strictObject({
  format: Type.Literal(1),
  appliance: Type.Optional(nameField),
  title: Type.Optional(textField({ max: 200 })),
  notes: Type.Optional(textField({ max: 4_000 })),
  machine: machineDescriptionSchema,
  disks: Type.Array(
    strictObject({
      name: diskNameField,
      kind: wordField('system', 'user', 'ephemeral'),
      bus: wordField('virtio', 'sata', 'ide'),
      diskBytes: Type.Optional(integerField({ min: 512, max: 2 ** 44 })),
      blockBytes: Type.Optional(integerField({ min: 4_096, max: 1_048_576 })),
      file: Type.Optional(Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$' })),
    }),
    { minItems: 1, maxItems: 8 },
  ),
  /** Read by the command line, for `publish --from-maintain`. */
  cleanUp: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 16_384 }), { maxItems: 64 })),
});

export type RecipeDisk = {
  readonly name: string;
  readonly kind: 'system' | 'user' | 'ephemeral';
  readonly bus: 'virtio' | 'sata' | 'ide';
  readonly diskBytes?: number;
  readonly blockBytes?: number;
};

export type Recipe = {
  readonly title?: string;
  readonly notes?: string;
  readonly machine: MachineDescription;
  /** Undefined: a machine description alone. */
  readonly disks?: readonly RecipeDisk[];
};

const codec = documentCodec(recipeSchema, {
  what: 'machine description',
  bytesMax: RECIPE_BYTES_MAX,
  error: 'bad-machine',
});

/** Errors: `bad-machine` with the field. */
export function parseRecipe(text: string): Recipe {
  let value: unknown;
  try {
    value = parseStrictJson(Buffer.from(text, 'utf8'), { bytesMax: RECIPE_BYTES_MAX });
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CollectiveError('bad-machine', `The machine description is no JSON that can be used: ${reason}`, {
      cause,
    });
  }
  if (typeof value !== 'object' || value === null || !('machine' in value))
    return { machine: checkMachineDescription(value) };
  // First the machine alone, so that its own message is the one that is seen.
  checkMachineDescription(value.machine);
  const { title, notes, machine, disks } = codec.check(value);
  return {
    ...(title === undefined ? {} : { title }),
    ...(notes === undefined ? {} : { notes }),
    machine,
    disks: disks.map(({ file: _file, ...disk }) => disk),
  };
}

/** What a new appliance gets when nobody says anything: a small server of today. */
export const DEFAULT_MACHINE: MachineDescription = {
  memoryBytes: 1_073_741_824,
  cpus: 2,
  chipset: 'q35',
  firmware: 'bios',
  network: 'virtio',
  display: 'vga',
  guestAgent: true,
  clock: 'utc',
};
