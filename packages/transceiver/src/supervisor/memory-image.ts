/**
 * A suspended machine as files, HOME/machines/MACHINE/memory/: `ram` (sparse), `devices` (QEMU's stream) and `image.json`, which is
 * written durably and last: the image *is* there when that file is. It names everything that has to be the same when it is resumed. `ram` and
 * `devices` are encrypted, but for pages of zeroes, with keys of this image alone.
 *
 * The folder without `image.json` belongs to a machine that is being suspended, or has just been resumed: nobody needs it.
 */
import { mkdir, open, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  digestField,
  documentCodec,
  integerField,
  nullable,
  sha256,
  strictObject,
  wordField,
} from '@collective/shared';
import { type Static, Type } from '@collective/schema';
import { decodeStackDescription, DESCRIPTION_NAME } from '../blockd/overlay/stack-description.js';
import { readIfThere, removeIfThere, writeDurably } from '../storage/durable-file.js';
import { machineIdField, machineSpecSchema, type MachineSpec } from './machine-spec.js';

const layersSchema = Type.Array(
  strictObject({
    disk: Type.String({ maxLength: 64 }),
    /** From the bottom to the top: the layer's id, and the SHA-256 of its `durable` map. */
    layers: Type.Array(strictObject({ id: Type.String({ pattern: '^[0-9a-f]{32}$' }), durable: digestField }), {
      maxItems: 64,
    }),
  }),
  { maxItems: 8 },
);

export const memoryImageSchema = strictObject({
  format: Type.Literal(2),
  machine: machineIdField,
  spec: machineSpecSchema,
  suspendedAtMs: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  startedAtMs: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  restarts: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  generationId: Type.String({ pattern: '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' }),
  /** Of QEMU, `7.2.22`. */
  qemuVersion: Type.String({ pattern: '^[0-9]+\\.[0-9]+\\.[0-9]+$', maxLength: 40 }),
  machineType: Type.String({ maxLength: 64 }),
  cpuModel: Type.String({ maxLength: 64 }),
  accelerator: wordField('kvm', 'tcg'),
  /** Null: `ram` and `devices` are not encrypted (machine/image-cipher.ts). */
  encryption: nullable(
    strictObject({
      /** The keys of this image are derived with it. */
      imageId: Type.String({ pattern: '^[0-9a-f]{32}$' }),
      keyCheck: Type.String({ pattern: '^[A-Za-z0-9_-]{21}[AQgw]$' }),
    }),
  ),
  /** Of what lies in the files: of the cipher text, so they tell nothing. */
  ramDigest: digestField,
  deviceBytes: integerField({ min: 1, max: 2 ** 31 }),
  deviceDigest: digestField,
  /** A new start would lose nothing (machine/firmware-phase.ts); absent: it would, or nobody knows. */
  isInFirmware: Type.Optional(Type.Boolean()),
  /** Null until the disks have been let go: then the layers are what they were when the guest stopped. */
  layers: nullable(layersSchema),
});
export type MemoryImage = Static<typeof memoryImageSchema>;
export type DiskLayers = Static<typeof layersSchema>;

const IMAGE_BYTES_MAX = 512 << 10;
const codec = documentCodec(memoryImageSchema, { what: 'memory image', bytesMax: IMAGE_BYTES_MAX });

export class MemoryImages {
  readonly #machinesDirectory: string;

  constructor(machinesDirectory: string) {
    this.#machinesDirectory = machinesDirectory;
  }

  paths(machine: string) {
    const folder = join(this.#machinesDirectory, machine, 'memory');
    return { folder, ram: join(folder, 'ram'), devices: join(folder, 'devices'), image: join(folder, 'image.json') };
  }

  /** An empty folder for an image; tells the supervisor after a crash that the guest may be stopped for it. */
  async begin(machine: string): Promise<void> {
    const { folder } = this.paths(machine);
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true, mode: 0o700 });
  }

  /** True: a machine was being suspended, or resumed, when its supervisor died. Only without an image does that mean something. */
  async isBegun(machine: string): Promise<boolean> {
    return (await readdir(this.paths(machine).folder).catch(() => undefined)) !== undefined;
  }

  /** Makes it one: everything else of it is on the medium. */
  async commit(image: MemoryImage): Promise<void> {
    const { folder, image: path } = this.paths(image.machine);
    await syncFolder(join(folder, '..'));
    await writeDurably(path, codec.encode(image));
  }

  /** Undefined when there is none. Errors: `malformed`, `unknown-format`. */
  async read(machine: string): Promise<MemoryImage | undefined> {
    const bytes = await readIfThere(this.paths(machine).image);
    return bytes === undefined ? undefined : codec.decode(bytes);
  }

  /** Durable: after this the machine cannot be resumed any more. */
  async remove(machine: string): Promise<void> {
    const { folder, image } = this.paths(machine);
    if (!(await this.isBegun(machine))) return;
    await removeIfThere(image);
    await syncFolder(folder);
  }

  /** What is left of one that was removed. */
  async removeRest(machine: string): Promise<void> {
    await rm(this.paths(machine).folder, { recursive: true, force: true });
  }

  /** All images; one that cannot be read is told to `onBad` and left where it is. */
  async list(onBad: (machine: string, error: unknown) => void): Promise<MemoryImage[]> {
    const images: MemoryImage[] = [];
    for (const machine of await readdir(this.#machinesDirectory).catch(() => [])) {
      try {
        const image = await this.read(machine);
        if (image !== undefined) images.push(image);
      } catch (error) {
        onBad(machine, error);
      }
    }
    return images;
  }
}

/** The exact layers of the machine's disks, none of which is open. Errors: `malformed`, `local-io`. */
export async function layersOf(spec: MachineSpec): Promise<DiskLayers> {
  return await Promise.all(
    spec.disks.flatMap(({ name, overlay }) => (overlay === undefined ? [] : [layersOfDisk(name, overlay.path)])),
  );
}

async function layersOfDisk(disk: string, folder: string): Promise<DiskLayers[number]> {
  const bytes = await readIfThere(join(folder, DESCRIPTION_NAME));
  if (bytes === undefined) return { disk, layers: [] };
  const { layerIds } = decodeStackDescription(bytes);
  const layers = await Promise.all(
    layerIds.map(async (id) => ({
      id,
      durable: sha256(await readFile(join(folder, 'layers', id, 'durable'))),
    })),
  );
  return { disk, layers };
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** The version of the appliance that is suspended: the highest of its disks'. */
export const versionOf = (spec: MachineSpec): number =>
  Math.max(0, ...spec.disks.map(({ source }) => (source.kind === 'published' ? source.version : 0)));
