/**
 * What the next version will be, before anything is read: its machine, its disks, and which of them get new content. Pure.
 */
import {
  CollectiveError,
  checkMachineDisks,
  type DiskDescription,
  type MachineDescription,
  type VersionManifest,
} from '@collective/shared';
import type { DiskImage } from './disk-image.js';
import { blockBytesFor } from './map-image.js';
import { DEFAULT_MACHINE, type Recipe, type RecipeDisk } from './recipe.js';

/** `root` of a disk with an image is filled in when its blocks have been hashed. */
export type DraftDisk = { readonly description: DiskDescription; readonly image?: DiskImage };

export type VersionDraft = {
  readonly machine: MachineDescription;
  readonly title: string;
  readonly notes: string;
  readonly disks: readonly DraftDisk[];
};

/**
 * Disks come from the recipe, else from the version before, else from the images' names. A disk without an image keeps
 * the content that it had. Errors: `usage`, `bad-image`, `bad-machine`.
 */
export function draftVersion(options: {
  readonly name: string;
  readonly images: ReadonlyMap<string, DiskImage>;
  readonly recipe: Recipe | undefined;
  readonly parent: VersionManifest | undefined;
  readonly title: string | undefined;
  readonly notes: string | undefined;
}): VersionDraft {
  const { images, recipe, parent } = options;
  const machine = recipe?.machine ?? parent?.machine ?? DEFAULT_MACHINE;
  const layout: readonly RecipeDisk[] = recipe?.disks ?? parent?.disks ?? Array.from(images.keys(), diskByName);
  for (const name of images.keys()) {
    if (!layout.some((disk) => disk.name === name)) {
      throw new CollectiveError(
        'usage',
        `There is no disk "${name}" in this appliance; it has ${layout.map((disk) => disk.name).join(', ')}.`,
      );
    }
  }
  const disks = layout.map((disk) => draftDisk(disk, images.get(disk.name), parent));
  if (disks.filter(({ description }) => description.kind === 'system').length !== 1) {
    throw new CollectiveError('usage', 'An appliance has exactly one system disk: --disk system=FILE.');
  }
  checkMachineDisks(
    machine,
    disks.map(({ description }) => description),
  );
  return {
    machine,
    title: options.title ?? recipe?.title ?? parent?.title ?? options.name,
    notes: options.notes ?? recipe?.notes ?? '',
    disks,
  };
}

function diskByName(name: string): RecipeDisk {
  const kind = name === 'user' || name === 'ephemeral' ? name : 'system';
  return { name, kind, bus: 'virtio' };
}

function draftDisk(disk: RecipeDisk, image: DiskImage | undefined, parent: VersionManifest | undefined): DraftDisk {
  const { name, kind, bus } = disk;
  const before = parent?.disks.find((candidate) => candidate.name === name);
  if (kind === 'ephemeral') {
    if (image !== undefined)
      throw new CollectiveError('usage', `Disk "${name}" is ephemeral: it begins empty and has no image.`);
    const diskBytes = disk.diskBytes ?? before?.diskBytes;
    if (diskBytes === undefined)
      throw new CollectiveError(
        'usage',
        `Say how large the ephemeral disk "${name}" is, in the appliance.json of --machine.`,
      );
    const blockBytes = disk.blockBytes ?? blockBytesFor({ kind, diskBytes });
    return { description: { name, kind, bus, diskBytes, blockBytes, root: null, base: null } };
  }
  if (image === undefined) {
    if (before === undefined) throw new CollectiveError('usage', `Disk "${name}" has no image: --disk ${name}=FILE.`);
    return { description: { ...before, kind, bus } };
  }
  if (disk.diskBytes !== undefined && recipeOnly(disk, before) && disk.diskBytes !== image.diskBytes) {
    throw new CollectiveError(
      'bad-image',
      `${image.path} has ${String(image.diskBytes)} bytes; the recipe says ${String(disk.diskBytes)} for disk "${name}": it is cut off, or another one.`,
    );
  }
  const blockBytes = disk.blockBytes ?? blockBytesFor({ kind, diskBytes: image.diskBytes });
  return { description: { name, kind, bus, diskBytes: image.diskBytes, blockBytes, root: null, base: null }, image };
}

/** A layout that was taken over from the version before binds nobody: disks may grow. */
const recipeOnly = (disk: RecipeDisk, before: DiskDescription | undefined): boolean => disk !== before;
