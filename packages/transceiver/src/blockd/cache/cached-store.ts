/**
 * The cache as the serving thread sees it: blocks from the slots, what is not there from the filler (which in blockd is
 * the fetching thread), which puts it into a slot and says so.
 *
 * Content that turns out to be damaged is reported to the filler, which forgets it, and is then a miss: the reader sees
 * a longer read. Blocks for which the cache had no room come back as bytes and are kept in a small memory, because a
 * guest reads a block in pieces.
 */
import { CollectiveError, type Digest } from '@collective/shared';
import type { BlockRequest, BlockStore, FetchRank, GetOptions } from '../block-store.js';
import { sumFaults, type FaultCounts } from '../faults.js';
import { DIGEST_WORDS } from './slot-arrays.js';
import { putDigestWords } from './slot-index.js';
import type { SlotReader } from './slot-reader.js';

/** What fills the cache: finds, fetches, verifies and stores blocks. */
export interface CacheFiller {
  /**
   * Brings the block into the cache: `undefined` when it is in a slot now. The bytes themselves when there was no room, or
   * when `wantBytes`. Errors as BlockStore.get.
   */
  bring(request: BlockRequest, options: GetOptions & { readonly wantBytes: boolean }): Promise<Buffer | undefined>;
  /** Asks for blocks that nobody waits for. Never fails. */
  warm(requests: readonly BlockRequest[], rank: FetchRank): void;
  /** The slot of this block is damaged: forget it. Takes effect before any later call. */
  reportDamage(request: { readonly digest: Digest; readonly blockBytes: number }): void;
}

export type CachedStoreCounters = { hits: number; misses: number };

const TRIES_MAX = 3;
const MEMORY_BLOCKS_MAX = 64;

export class CachedStore implements BlockStore {
  readonly counters: CachedStoreCounters = { hits: 0, misses: 0 };
  readonly #filler: CacheFiller;
  readonly #readers = new Map<number, SlotReader>();
  readonly #words = new Uint32Array(DIGEST_WORDS);
  /** Blocks that the cache had no room for, oldest first. */
  readonly #memory = new Map<Digest, Buffer>();
  /** Whole reads of slots that are under way, so that sixteen readers of one block read and check it once. */
  readonly #reading = new Map<Digest, Promise<Buffer | undefined>>();

  constructor(filler: CacheFiller) {
    this.#filler = filler;
  }

  /** Takes over a reader for blocks of its size. */
  addReader(reader: SlotReader): void {
    this.#readers.set(reader.blockBytes, reader);
  }

  reader(blockBytes: number): SlotReader {
    const reader = this.#readers.get(blockBytes);
    if (reader === undefined) throw new RangeError(`no slot file for blocks of ${blockBytes} bytes is open`);
    return reader;
  }

  hasReader(blockBytes: number): boolean {
    return this.#readers.has(blockBytes);
  }

  get readers(): Iterable<SlotReader> {
    return this.#readers.values();
  }

  async get(request: BlockRequest, options: GetOptions): Promise<Buffer> {
    // Up to the filler there is no turn of the event loop: a demand read goes out before the readahead that it causes.
    for (let attempt = 0; attempt < TRIES_MAX; attempt += 1) {
      options.signal?.throwIfAborted();
      // The slot before the memory: a slot that nobody reads is not checked again, and never read without waiting.
      const isInSlot = this.#find(request) >= 0;
      const remembered = isInSlot ? undefined : this.#memory.get(request.digest);
      if (remembered !== undefined && remembered.length === request.blockBytes) return remembered;
      const block = isInSlot ? await this.#fromSlot(request) : undefined;
      if (block !== undefined) {
        if (attempt === 0) this.counters.hits += 1;
        return block;
      }
      if (attempt === 0) this.counters.misses += 1;
      const brought = await this.#filler.bring(request, { ...options, wantBytes: attempt === TRIES_MAX - 1 });
      if (brought !== undefined) return this.#remember(request.digest, brought);
    }
    throw new CollectiveError('local-io', `the cache filled block ${request.digest} and could not read it`);
  }

  /** Asks for blocks that nobody waits for yet; what is there already is left alone. How many are not there. */
  warm(requests: readonly BlockRequest[], rank: FetchRank): number {
    const missing = requests.filter((request) => this.isMissing(request));
    if (missing.length > 0) this.#filler.warm(missing, rank);
    return missing.length;
  }

  isMissing(request: BlockRequest): boolean {
    return this.#find(request) < 0;
  }

  /** Faults of the local disk that readers met. */
  get faults(): FaultCounts {
    let damaged = 0;
    let unreadable = 0;
    for (const { counters } of this.readers) {
      damaged += counters.damaged - counters.unreadable;
      unreadable += counters.unreadable;
    }
    return sumFaults([{ 'cache-block-damaged': damaged, 'cache-block-unreadable': unreadable }]);
  }

  #fromSlot(request: BlockRequest): Promise<Buffer | undefined> {
    const known = this.#reading.get(request.digest);
    if (known !== undefined) return known;
    const reading = this.#readSlot(request).finally(() => this.#reading.delete(request.digest));
    this.#reading.set(request.digest, reading);
    return reading;
  }

  async #readSlot(request: BlockRequest): Promise<Buffer | undefined> {
    const slot = this.#find(request);
    if (slot < 0) return undefined;
    const words = new Uint32Array(this.#words); // for as long as the read takes
    const read = await this.reader(request.blockBytes).readWhole(slot, request.digest, words, 0);
    if (read === 'damaged') this.#filler.reportDamage(request);
    return read === 'damaged' || read === 'gone' ? undefined : read.block;
  }

  #find(request: BlockRequest): number {
    putDigestWords(request.digest, this.#words, 0);
    return this.reader(request.blockBytes).find(this.#words, 0);
  }

  #remember(digest: Digest, block: Buffer): Buffer {
    this.#memory.delete(digest);
    this.#memory.set(digest, block);
    for (const oldest of this.#memory.keys()) {
      if (this.#memory.size <= MEMORY_BLOCKS_MAX) break;
      this.#memory.delete(oldest);
    }
    return block;
  }

  /** Closes the readers and their files. */
  async close(): Promise<void> {
    const results = await Promise.allSettled([...this.#readers.values()].map((reader) => reader.close()));
    this.#readers.clear();
    const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
    if (errors.length > 0) throw new AggregateError(errors, 'the cache readers could not be closed');
  }
}
