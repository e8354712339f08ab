/**
 * The objects of one subscription, for as long as something is looked up in them: a chunk is searched in the listed
 * objects, the newest first. So many are kept open, with their indexes in memory; the others are opened again.
 */
import { type ChunkPlace, CollectiveError, type Digest } from '@collective/shared';
import { type BlobName, snapshotDataName, type SubscriptionName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { SnapshotObjectFile } from './snapshot-object-file.js';

const OPEN_OBJECTS_MAX = 64;

export type FoundChunk = { readonly object: SnapshotObjectFile; readonly place: ChunkPlace };

export class SnapshotObjects {
  readonly #blobStore: BlobStore;
  readonly #of: SubscriptionName;
  readonly #recordsMax: number;
  /** An object that has no snapshot yet: the number that it will have, and where it lies. */
  readonly #own: { readonly number: number; readonly name: BlobName } | undefined;
  /** In the order of use, the last one newest. */
  readonly #open = new Map<number, SnapshotObjectFile>();

  constructor(
    blobStore: BlobStore,
    of: SubscriptionName,
    options: {
      readonly recordsMax: number;
      readonly own?: { readonly number: number; readonly name: BlobName } | undefined;
    },
  ) {
    this.#blobStore = blobStore;
    this.#of = of;
    this.#recordsMax = options.recordsMax;
    this.#own = options.own;
  }

  /** Undefined when none of the objects (numbers, ascending) holds the chunk. Errors: those of a damaged object. */
  async find(digest: Digest, objects: readonly number[]): Promise<FoundChunk | undefined> {
    for (let at = objects.length - 1; at >= 0; at -= 1) {
      const object = await this.object(objects[at] ?? 0);
      const place = object.index.find(digest);
      if (place !== undefined) return { object, place };
    }
    return undefined;
  }

  /** The object, open until `close()`, or until many others have been. Errors: `block-missing` when it is not there. */
  async object(number: number): Promise<SnapshotObjectFile> {
    const known = this.#open.get(number);
    if (known !== undefined) {
      this.#open.delete(number);
      this.#open.set(number, known);
      return known;
    }
    const name = this.#own?.number === number ? this.#own.name : snapshotDataName(this.#of, number);
    const object = await SnapshotObjectFile.open(this.#blobStore, name, { recordsMax: this.#recordsMax });
    if (object === undefined)
      throw new CollectiveError('block-missing', `the object of snapshot ${number} is not in the repository`, {
        data: { object: number },
      });
    this.#open.set(number, object);
    for (const [oldNumber, old] of this.#open) {
      if (this.#open.size <= OPEN_OBJECTS_MAX) break;
      this.#open.delete(oldNumber);
      await old.close();
    }
    return object;
  }

  async close(): Promise<void> {
    const open = [...this.#open.values()];
    this.#open.clear();
    for (const object of open) await object.close();
  }
}
