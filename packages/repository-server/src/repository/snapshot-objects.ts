/**
 * The objects of one subscription, for as long as something is looked up in them: a chunk is searched in the listed
 * objects, the newest first. Their indexes stay in memory, for a search goes through all of them; only so many files are
 * kept open, and one is opened again when a chunk of it is wanted.
 */
import { type ChunkPlace, CollectiveError, type Digest, digestBytes, type SnapshotIndex } from '@collective/shared';
import { nextTurn } from '../catalogue/slices.js';
import { type BlobName, snapshotDataName, type SubscriptionName } from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { indexBytes, type SnapshotIndexMemory } from './snapshot-index-memory.js';
import { SnapshotObjectFile } from './snapshot-object-file.js';

const OPEN_OBJECTS_MAX = 64;
/** Of the indexes of one search; the oldest are read again when there are more. */
const INDEX_BYTES_MAX = 268_435_456;
/** A search in an index costs as much as going through so many of its records. */
const SEARCH_STEPS = 4;
/** Other requests wait no longer than for so many lookups, some milliseconds. */
const LOOKUPS_AT_ONCE = 16_384;

export type FoundChunk = { readonly object: SnapshotObjectFile; readonly place: ChunkPlace };

export class SnapshotObjects {
  readonly #blobStore: BlobStore;
  readonly #of: SubscriptionName;
  readonly #recordsMax: number;
  /** An object that has no snapshot yet: the number that it will have, and where it lies. */
  readonly #own: { readonly number: number; readonly name: BlobName } | undefined;
  readonly #memory: SnapshotIndexMemory | undefined;
  /** In the order of use, the last one newest. */
  readonly #open = new Map<number, SnapshotObjectFile>();
  readonly #indexes = new Map<number, SnapshotIndex>();
  #indexBytes = 0;

  constructor(
    blobStore: BlobStore,
    of: SubscriptionName,
    options: {
      readonly recordsMax: number;
      readonly own?: { readonly number: number; readonly name: BlobName } | undefined;
      readonly indexes?: SnapshotIndexMemory;
    },
  ) {
    this.#blobStore = blobStore;
    this.#of = of;
    this.#recordsMax = options.recordsMax;
    this.#own = options.own;
    this.#memory = options.indexes;
  }

  /** Undefined when none of the objects (numbers, ascending) holds the chunk. Errors: those of a damaged object. */
  async find(digest: Digest, objects: readonly number[]): Promise<FoundChunk | undefined> {
    const wanted = digestBytes(digest);
    for (let at = objects.length - 1; at >= 0; at -= 1) {
      const number = objects[at] ?? 0;
      const index = this.#indexes.get(number) ?? (await this.object(number)).index;
      if (index.findBytes(wanted) === undefined) continue;
      // Opened again it may have been rewritten since.
      const object = await this.object(number);
      const place = object.index.findBytes(wanted);
      if (place !== undefined) return { object, place };
    }
    return undefined;
  }

  /**
   * One of the chunks that none of the objects (numbers, ascending) holds; undefined when each is in one. Looks into each
   * object once, however many chunks are wanted, and takes what it finds out of `wanted`. Errors: those of a damaged object.
   */
  async firstLacking(wanted: Set<Digest>, objects: readonly number[]): Promise<Digest | undefined> {
    let lookups = 0;
    for (let at = objects.length - 1; at >= 0 && wanted.size > 0; at -= 1) {
      const number = objects[at] ?? 0;
      const index = this.#indexes.get(number) ?? (await this.object(number)).index;
      if (index.recordCount < wanted.size * SEARCH_STEPS) {
        for (const [digest] of index.entries()) {
          wanted.delete(digest);
          if (++lookups % LOOKUPS_AT_ONCE === 0) await nextTurn();
        }
      } else {
        for (const digest of wanted) {
          if (index.find(digest) !== undefined) wanted.delete(digest);
          if (++lookups % LOOKUPS_AT_ONCE === 0) await nextTurn();
        }
      }
    }
    const [lacking] = wanted;
    return lacking;
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
    const object = await SnapshotObjectFile.open(this.#blobStore, name, {
      recordsMax: this.#recordsMax,
      indexes: this.#memory,
    });
    if (object === undefined)
      throw new CollectiveError('block-missing', `the object of snapshot ${number} is not in the repository`, {
        data: { object: number },
      });
    this.#keepIndex(number, object.index);
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

  #keepIndex(number: number, index: SnapshotIndex): void {
    const before = this.#indexes.get(number);
    if (before !== undefined) this.#indexBytes -= indexBytes(before);
    this.#indexes.set(number, index);
    this.#indexBytes += indexBytes(index);
    for (const [oldNumber, old] of this.#indexes) {
      if (this.#indexBytes <= INDEX_BYTES_MAX || oldNumber === number) break;
      this.#indexes.delete(oldNumber);
      this.#indexBytes -= indexBytes(old);
    }
  }
}
