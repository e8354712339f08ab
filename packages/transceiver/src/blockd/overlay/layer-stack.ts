/**
 * The layers of one disk, under one lock: the topmost takes writes, those below are only read.
 *
 * On disk: `lock`, `overlay.json` (which layers, in which order), `layers/<id>/…`. A layer is on the medium before the
 * description names it, and the description is replaced as a whole; so after a crash the stack is the old or the new
 * one. What lies in `layers` without being named is left over from a crash and removed at open; but where the description
 * itself is gone and a layer was once in use, nothing is removed or made: that is damage, not a crash.
 */
import { dirname } from 'node:path';
import { CollectiveError } from '@collective/shared';
import type { FileLock, FileSystem } from '../../storage/file-system.js';
import { replaceFileDurably } from '../../storage/file-system.js';
import { OVERLAY_LIMITS, SECTOR_BYTES, SECTORS_PER_GRANULE, WHOLE } from './geometry.js';
import { Layer, newLayerId, wasLayerUsed } from './layer.js';
import {
  decodeStackDescription,
  DESCRIPTION_NAME,
  encodeStackDescription,
  type StackDescription,
} from './stack-description.js';

/** Who holds a granule: an index of `layers`, BELOW (no layer), or MIXED (it differs from sector to sector). */
export const BELOW = -1;
export const MIXED = -2;

export class LayerStack {
  readonly diskBytes: number;
  /** From the bottom to the top; never empty. */
  readonly layers: readonly Layer[];
  readonly top: Layer;
  readonly #lock: FileLock;

  private constructor(diskBytes: number, layers: readonly Layer[], top: Layer, lock: FileLock) {
    this.diskBytes = diskBytes;
    this.layers = layers;
    this.top = top;
    this.#lock = lock;
  }

  /**
   * Opens the stack in `folder`, or makes an empty one (durably) when there is none. Errors: `in-use`, `malformed`,
   * `unknown-format`, `bad-image` when it is of another size, `disk-full`, `local-io`.
   */
  static async openOrCreate(fileSystem: FileSystem, folder: string, diskBytes: number): Promise<LayerStack> {
    if (diskBytes <= 0 || diskBytes > OVERLAY_LIMITS.diskBytesMax || diskBytes % SECTOR_BYTES !== 0) {
      throw new CollectiveError('bad-image', `an overlay cannot have ${diskBytes} bytes`);
    }
    return withLock(fileSystem, folder, async (lock) => {
      const description =
        (await readDescription(fileSystem, folder)) ?? (await createStack(fileSystem, folder, diskBytes));
      if (description.diskBytes !== diskBytes) {
        throw new CollectiveError(
          'bad-image',
          `the overlay is for a disk of ${description.diskBytes} bytes, not ${diskBytes}`,
        );
      }
      await removeUnnamed(fileSystem, folder, description);
      return LayerStack.#open(fileSystem, folder, description, lock);
    });
  }

  /** Puts a fresh layer above a stack that nobody has open; the one that was on top is only read from then on. */
  static async addLayer(fileSystem: FileSystem, folder: string): Promise<void> {
    await withLock(fileSystem, folder, async (lock) => {
      const description = await readDescription(fileSystem, folder);
      if (description === undefined) throw new CollectiveError('not-found', `there is no overlay in ${folder}`);
      await addLayer(fileSystem, folder, description);
      await lock.release();
    });
  }

  static async #open(
    fileSystem: FileSystem,
    folder: string,
    description: StackDescription,
    lock: FileLock,
  ): Promise<LayerStack> {
    const layers: Layer[] = [];
    try {
      for (const layerId of description.layerIds) {
        const location = { folder: `${folder}/layers`, layerId, diskBytes: description.diskBytes };
        layers.push(await Layer.open(fileSystem, location));
      }
      const top = layers.at(-1);
      if (top === undefined) throw new CollectiveError('malformed', `${folder} has no layers`);
      return new LayerStack(description.diskBytes, layers, top, lock);
    } catch (error) {
      for (const layer of layers) await layer.close();
      throw error;
    }
  }

  ownerOf(granule: number): number {
    for (let index = this.layers.length - 1; index >= 0; index -= 1) {
      const mask = this.layers[index]?.map.get(granule) ?? 0;
      if (mask === WHOLE) return index;
      if (mask !== 0) return MIXED;
    }
    return BELOW;
  }

  /** Who holds one sector: an index of `layers`, or BELOW. */
  sectorOwnerOf(sector: number): number {
    const granule = Math.floor(sector / SECTORS_PER_GRANULE);
    const bit = 1 << (sector % SECTORS_PER_GRANULE);
    for (let index = this.layers.length - 1; index >= 0; index -= 1) {
      if (((this.layers[index]?.map.get(granule) ?? 0) & bit) !== 0) return index;
    }
    return BELOW;
  }

  /** Only the top layer is written to, but a lower one may still hold unsynced data of before it was covered. */
  async flush(): Promise<void> {
    const results = await Promise.allSettled(this.layers.map((layer) => layer.flush()));
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  async close(): Promise<void> {
    for (const layer of this.layers) await layer.close();
    await this.#lock.release();
  }
}

const withLock = async <T>(
  fileSystem: FileSystem,
  folder: string,
  work: (lock: FileLock) => Promise<T>,
): Promise<T> => {
  await fileSystem.makeFolder(folder);
  const lock = await fileSystem.lock(`${folder}/lock`);
  try {
    return await work(lock);
  } catch (error) {
    await lock.release();
    throw error;
  }
};

const readDescription = async (fileSystem: FileSystem, folder: string): Promise<StackDescription | undefined> => {
  const bytes = await fileSystem.readWhole(`${folder}/${DESCRIPTION_NAME}`, OVERLAY_LIMITS.descriptionBytesMax);
  return bytes === undefined ? undefined : decodeStackDescription(bytes);
};

const addLayer = async (fileSystem: FileSystem, folder: string, below: StackDescription): Promise<StackDescription> => {
  if (below.layerIds.length >= OVERLAY_LIMITS.layersMax) {
    throw new CollectiveError('too-large', `${folder} has ${below.layerIds.length} layers already`);
  }
  const layerId = newLayerId();
  await fileSystem.makeFolder(`${folder}/layers`);
  await Layer.create(fileSystem, { folder: `${folder}/layers`, layerId, diskBytes: below.diskBytes });
  const description = { diskBytes: below.diskBytes, layerIds: [...below.layerIds, layerId] };
  // Syncs `folder` as well, so also the names of `layers` and `lock` in it.
  await replaceFileDurably(fileSystem, { folder, name: DESCRIPTION_NAME }, encodeStackDescription(description));
  return description;
};

const createStack = async (fileSystem: FileSystem, folder: string, diskBytes: number): Promise<StackDescription> => {
  for (const layerId of await fileSystem.list(`${folder}/layers`)) {
    if (await wasLayerUsed(fileSystem, `${folder}/layers/${layerId}`)) {
      throw new CollectiveError('malformed', `${folder} has layers, but ${DESCRIPTION_NAME} is gone`);
    }
  }
  const description = await addLayer(fileSystem, folder, { diskBytes, layerIds: [] });
  await fileSystem.syncFolder(dirname(folder));
  return description;
};

const removeUnnamed = async (fileSystem: FileSystem, folder: string, description: StackDescription): Promise<void> => {
  for (const name of await fileSystem.list(`${folder}/layers`)) {
    if (!description.layerIds.includes(name)) await fileSystem.remove(`${folder}/layers/${name}`);
  }
};
