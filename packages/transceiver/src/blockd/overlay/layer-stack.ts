/**
 * The layers of one disk, under one lock: the topmost takes writes, those below are sealed and only read.
 *
 * On disk: `lock`, `overlay.json` (which layers, in which order), `layers/<id>/…`. A layer is on the medium before the
 * description names it, and the description is replaced as a whole; so after a crash the stack is the old or the new
 * one. What lies in `layers` without being named is left over from a crash and removed at open; but where the description
 * itself is gone and a layer was once in use, nothing is removed or made: that is damage, not a crash.
 */
import { dirname } from 'node:path';
import { CollectiveError, type Digest } from '@collective/shared';
import type { FileLock, FileSystem } from '../../storage/file-system.js';
import { replaceFileDurably } from '../../storage/file-system.js';
import type { BlockDevice } from '../block-device.js';
import { OVERLAY_LIMITS, SECTOR_BYTES } from './geometry.js';
import { Layer, newLayerId } from './layer.js';
import { assertDiskKey, LayerKeys } from './layer-keys.js';
import { ownerOfGranule, ownerOfSector, type LayerOwners } from './layer-owners.js';
import { wasLayerUsed } from './layer-maps.js';
import {
  decodeStackDescription,
  DESCRIPTION_NAME,
  encodeStackDescription,
  type StackDescription,
} from './stack-description.js';

/** Gives the device below the layers: `base` is that of the description, or null for what else the caller knows. */
export type OpenBelow = (base: Digest | null) => Promise<BlockDevice>;

type Place = {
  readonly fileSystem: FileSystem;
  readonly folder: string;
  readonly lock: FileLock;
  readonly keys: LayerKeys | undefined;
};

export class LayerStack implements LayerOwners {
  readonly diskBytes: number;
  readonly #fileSystem: FileSystem;
  readonly #folder: string;
  readonly #lock: FileLock;
  readonly #keys: LayerKeys | undefined;
  #description: StackDescription;
  #layers: readonly Layer[];
  #top: Layer;

  private constructor(place: Place, description: StackDescription, layers: readonly Layer[], top: Layer) {
    this.diskBytes = description.diskBytes;
    this.#fileSystem = place.fileSystem;
    this.#folder = place.folder;
    this.#lock = place.lock;
    this.#keys = place.keys;
    this.#description = description;
    this.#layers = layers;
    this.#top = top;
  }

  /** From the bottom to the top; never empty. Another list after each change. */
  get layers(): readonly Layer[] {
    return this.#layers;
  }

  get top(): Layer {
    return this.#top;
  }

  /**
   * Opens the stack in `folder`, or makes an empty one over `newBase` (durably) when there is none, and gives what `openBelow` opened with it:
   * the caller's, also when this fails. `key`, of 64 bytes: it is encrypted with it. Errors: `in-use`, `malformed`, `unknown-format`, `bad-image`
   * when it is of another size, `wrong-key`, `disk-full`, `local-io`, and those of `openBelow`.
   */
  static async openOrCreate(
    fileSystem: FileSystem,
    folder: string,
    options: {
      readonly openBelow: OpenBelow;
      readonly newBase?: Digest | null | undefined;
      readonly key?: Uint8Array | undefined;
    },
  ): Promise<{ readonly stack: LayerStack; readonly below: BlockDevice }> {
    const { openBelow, newBase = null, key } = options;
    const keys = key === undefined ? undefined : new LayerKeys(key);
    return withLock(fileSystem, folder, async (lock) => {
      const known = await readDescription(fileSystem, folder);
      // Before anything is changed.
      if (known !== undefined) assertDiskKey(key, known.encryption?.keyCheck ?? null, `the overlay in ${folder}`);
      // Its names may be in the page cache only: a predecessor may have been killed between the rename and the sync. Nothing may
      // be flushed below them, and nothing that they do not name be removed, before they are on the medium.
      if (known !== undefined) await syncNames(fileSystem, folder);
      const below = await openBelow(known === undefined ? newBase : known.base);
      const diskBytes = below.byteLength;
      if (diskBytes <= 0 || diskBytes > OVERLAY_LIMITS.diskBytesMax || diskBytes % SECTOR_BYTES !== 0) {
        throw new CollectiveError('bad-image', `an overlay cannot have ${diskBytes} bytes`);
      }
      const description =
        known ?? (await createStack(fileSystem, folder, emptyStack({ diskBytes, base: newBase }, keys)));
      if (description.diskBytes !== diskBytes) {
        throw new CollectiveError(
          'bad-image',
          `the overlay is for a disk of ${description.diskBytes} bytes, not ${diskBytes}`,
        );
      }
      await removeUnnamed(fileSystem, folder, description);
      return { stack: await LayerStack.#open({ fileSystem, folder, lock, keys }, description), below };
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

  static async #open(place: Place, description: StackDescription): Promise<LayerStack> {
    const { fileSystem, folder, keys } = place;
    const layers: Layer[] = [];
    try {
      for (const layerId of description.layerIds) {
        const location = { folder: `${folder}/layers`, layerId, diskBytes: description.diskBytes };
        const isSealed = layerId !== description.layerIds.at(-1);
        layers.push(await Layer.open(fileSystem, location, { isSealed, cipher: keys?.cipherOf(layerId) }));
      }
      const top = layers.at(-1);
      if (top === undefined) throw new CollectiveError('malformed', `${folder} has no layers`);
      return new LayerStack(place, description, layers, top);
    } catch (error) {
      for (const layer of layers) await layer.close();
      throw error;
    }
  }

  /**
   * Makes a fresh layer and names it as the topmost, durably; it does not count before `putOnTop`, so until then writes go to the
   * old one. A crash in between is fine: the stack is then opened with both, and what was written lies in the lower one.
   * Errors: `too-large` when there are too many layers, `disk-full`, `local-io`; the stack goes on as it is.
   */
  async prepareLayer(): Promise<Layer> {
    const { layerId, description } = await addLayer(this.#fileSystem, this.#folder, this.#description);
    this.#description = description;
    const location = { folder: `${this.#folder}/layers`, layerId, diskBytes: this.diskBytes };
    const cipher = this.#keys?.cipherOf(layerId);
    return Layer.open(this.#fileSystem, location, { isSealed: false, cipher, isNew: true });
  }

  /** From now on `layer`, which `prepareLayer` made, takes the writes. */
  putOnTop(layer: Layer): void {
    this.#layers = [...this.#layers, layer];
    this.#top = layer;
  }

  /** The base file that the description names. */
  get base(): Digest | null {
    return this.#description.base;
  }

  /**
   * Takes the `count` lowest layers, never the top, out of the description and names the base that takes their place, durably and in one step.
   * Then the caller has to call `take` in the turn in which it puts that base below: it takes them out of the stack and returns them, still
   * open, for reads that are under way. Errors: `disk-full`, `local-io`; after those the layers are still part of the stack, and the medium may
   * say the one or the other, which read the same.
   */
  async replaceByBase(count: number, base: Digest): Promise<{ readonly take: () => readonly Layer[] }> {
    if (count < 1 || count >= this.#layers.length) throw new RangeError('the top layer of a stack stays');
    const taken = this.#layers.slice(0, count);
    const takenIds = taken.map(({ layerId }) => layerId);
    const layerIds = this.#description.layerIds.filter((layerId) => !takenIds.includes(layerId));
    const description = { ...this.#description, base, layerIds };
    await writeDescription(this.#fileSystem, this.#folder, description);
    this.#description = description;
    return {
      take: () => {
        this.#layers = this.#layers.slice(count);
        return taken;
      },
    };
  }

  /** Closes a layer that was taken out and gives its space back. */
  async remove(layer: Layer): Promise<void> {
    await layer.close();
    await this.#fileSystem.remove(`${this.#folder}/layers/${layer.layerId}`);
  }

  ownerOf(granule: number): number {
    return ownerOfGranule(this.#layers, granule);
  }

  sectorOwnerOf(sector: number): number {
    return ownerOfSector(this.#layers, sector);
  }

  /** Brings all bits that were set into the live files. Only the top layer takes new writes, but older ones may end in a lower one. */
  publish(): void {
    for (const layer of this.#layers) layer.publish();
  }

  /** Makes the layers up to `last`, or all, durable. A lower one may hold unsynced data of before it was covered. */
  async flush(last?: Layer): Promise<void> {
    const layers = last === undefined ? this.#layers : this.#layers.slice(0, this.#layers.indexOf(last) + 1);
    const results = await Promise.allSettled(layers.map((layer) => layer.flush()));
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** Of one layer that was sealed and flushed, or of all after the last flush. */
  async keepSums(layers: readonly Layer[] = this.#layers): Promise<void> {
    for (const layer of layers) await layer.keepSums(this.#fileSystem);
  }

  async close(): Promise<void> {
    for (const layer of this.#layers) await layer.close();
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

const addLayer = async (
  fileSystem: FileSystem,
  folder: string,
  below: StackDescription,
): Promise<{ readonly layerId: string; readonly description: StackDescription }> => {
  if (below.layerIds.length >= OVERLAY_LIMITS.layersMax) {
    throw new CollectiveError('too-large', `${folder} has ${below.layerIds.length} layers already`);
  }
  const layerId = newLayerId();
  await Layer.create(fileSystem, { folder: `${folder}/layers`, layerId, diskBytes: below.diskBytes });
  const description = { ...below, layerIds: [...below.layerIds, layerId] };
  await writeDescription(fileSystem, folder, description);
  return { layerId, description };
};

const writeDescription = (fileSystem: FileSystem, folder: string, description: StackDescription): Promise<void> =>
  replaceFileDurably(fileSystem, { folder, name: DESCRIPTION_NAME }, encodeStackDescription(description));

const syncNames = async (fileSystem: FileSystem, folder: string): Promise<void> => {
  await fileSystem.syncFolder(folder);
  await fileSystem.syncFolder(dirname(folder));
};

const emptyStack = (
  disk: { readonly diskBytes: number; readonly base: Digest | null },
  keys: LayerKeys | undefined,
): StackDescription => ({
  ...disk,
  encryption: keys === undefined ? null : { keyCheck: keys.check },
  layerIds: [],
});

const createStack = async (
  fileSystem: FileSystem,
  folder: string,
  empty: StackDescription,
): Promise<StackDescription> => {
  for (const layerId of await fileSystem.list(`${folder}/layers`)) {
    if (await wasLayerUsed(fileSystem, `${folder}/layers/${layerId}`)) {
      throw new CollectiveError('malformed', `${folder} has layers, but ${DESCRIPTION_NAME} is gone`);
    }
  }
  await fileSystem.makeFolder(`${folder}/layers`);
  await fileSystem.syncFolder(folder); // or a power cut could leave the description without it
  const { description } = await addLayer(fileSystem, folder, empty);
  await fileSystem.syncFolder(dirname(folder));
  return description;
};

const removeUnnamed = async (fileSystem: FileSystem, folder: string, description: StackDescription): Promise<void> => {
  for (const name of await fileSystem.list(`${folder}/layers`)) {
    if (!description.layerIds.includes(name)) await fileSystem.remove(`${folder}/layers/${name}`);
  }
};
