/**
 * The writing half of the cache, in the fetching thread: one slot file for each block size in use, one bound for all of
 * them. A fill that finds no room is no error: the reader is served from memory and the block is fetched again some day.
 */
import { statfs } from 'node:fs/promises';
import { CollectiveError, hasCode, type Digest } from '@collective/shared';
import type { FileSystem } from '../../storage/file-system.js';
import type { SectorCipher } from '../../storage/sector-cipher.js';
import type { BlockRequest } from '../block-store.js';
import { systemClock, type Clock } from '../clock.js';
import { FaultCounters, sumFaults, type FaultCounts } from '../faults.js';
import { SlotFile } from './slot-file.js';
import { cacheBytesAllowed, fileToRelieve } from './space-plan.js';

export type CacheOptions = {
  /** What all slot files together may hold; grows the time to open (60 ms a million blocks) and memory (46 bytes a block). */
  readonly cacheBytesMax: number;
  /** What the cache leaves free on its file system. */
  readonly reserveBytes: number;
};

export type CacheWriterOptions = CacheOptions & {
  /** Time of day: both threads count touches in the same epochs. */
  readonly nowMs?: () => number;
  /** For what is done a while later. */
  readonly clock?: Clock;
  /** Slot files are encrypted, each with the cipher of its block size. */
  readonly cipherOf?: (blockBytes: number) => SectorCipher;
  /** Bytes that are free for an ordinary user on the file system of `folder`. */
  readonly freeBytes?: (folder: string) => Promise<number>;
};

export type CacheCounters = {
  readonly usedBytes: number;
  readonly filled: number;
  readonly evicted: number;
  readonly dropped: number;
  /** Blocks that could not be put into the cache. */
  readonly unfilled: number;
  readonly badRecords: number;
};

const TABLE_DELAY_MS = 200;
const SPACE_CHECK_MS = 1000;
const SPACE_CHECK_BYTES = 64 << 20;
/** How many blocks are given up at once, at most, when the bound is reached: so that runs of free slots form. */
const EVICT_BATCH_MAX = 32;
const SHRINK_BATCH_MAX = 1024;

const freeBytesOf = async (folder: string): Promise<number> => {
  const stats = await statfs(folder);
  return stats.bavail * stats.bsize;
};

export class CacheWriter {
  readonly #fileSystem: FileSystem;
  readonly #folder: string;
  readonly #options: CacheWriterOptions;
  readonly #nowMs: () => number;
  readonly #freeBytes: (folder: string) => Promise<number>;
  readonly #files = new Map<number, SlotFile>();
  readonly #opening = new Map<number, Promise<SlotFile>>();
  #allowedBytes: number;
  #spaceCheckedMs = Number.NEGATIVE_INFINITY;
  #filledSinceCheck = 0;
  readonly #clock: Clock;
  #cancelTable: (() => void) | undefined;
  #cancelSpace: () => void = () => undefined;
  #tableWrite: Promise<void> = Promise.resolve();
  /** Undefined when no look at the space is under way. */
  #spaceLook: Promise<void> | undefined;
  readonly #faults = new FaultCounters();
  #filled = 0;
  #dropped = 0;
  #unfilled = 0;
  #filling = 0;
  #whenIdle: (() => void) | undefined;
  #closed = false;

  private constructor(fileSystem: FileSystem, folder: string, options: CacheWriterOptions) {
    this.#fileSystem = fileSystem;
    this.#folder = folder;
    this.#options = options;
    this.#nowMs = options.nowMs ?? Date.now;
    this.#freeBytes = options.freeBytes ?? freeBytesOf;
    this.#allowedBytes = options.cacheBytesMax;
    this.#clock = options.clock ?? systemClock;
    this.#scheduleSpaceLook();
  }

  /** Opens the cache folder (made when missing) and all slot files in it. The caller holds its lock. */
  static async open(fileSystem: FileSystem, folder: string, options: CacheWriterOptions): Promise<CacheWriter> {
    const writer = new CacheWriter(fileSystem, folder, options);
    await fileSystem.makeFolder(folder);
    for (const name of await fileSystem.list(folder)) {
      const match = /^(\d{4,7})\.slots$/.exec(name);
      // One that cannot be opened is tried again when a disk wants it.
      if (match?.[1] !== undefined && isBlockBytes(Number(match[1])))
        await writer.file(Number(match[1])).catch(writer.#noteFailure);
    }
    return writer;
  }

  /** The slot file of that block size; opened or made when it is not there yet. */
  async file(blockBytes: number): Promise<SlotFile> {
    const known = this.#files.get(blockBytes);
    if (known !== undefined) return known;
    let opening = this.#opening.get(blockBytes);
    if (opening === undefined) {
      const capacity = Math.max(1, Math.floor(this.#options.cacheBytesMax / blockBytes));
      const cipher = this.#options.cipherOf?.(blockBytes);
      const options = { blockBytes, capacity, nowMs: this.#nowMs, cipher };
      opening = SlotFile.open(this.#fileSystem, this.#folder, options).then((file) => {
        this.#files.set(blockBytes, file);
        return file;
      });
      this.#opening.set(blockBytes, opening);
      opening.catch(() => this.#opening.delete(blockBytes));
    }
    return await opening;
  }

  has(request: { readonly digest: Digest; readonly blockBytes: number }): boolean {
    return this.#files.get(request.blockBytes)?.has(request.digest) ?? false;
  }

  /** Another block of that size fits without another one's being given up. */
  hasRoom(blockBytes: number): boolean {
    return this.#usedBytes() + blockBytes <= this.#allowedBytes;
  }

  /** Puts a verified block into the cache; false when that could not be done. Without `mayEvict` also when another one would have to be given up for it. Whatever the local disk does, it does not reject. */
  async fill(request: BlockRequest, block: Buffer, { mayEvict = true } = {}): Promise<boolean> {
    if (this.#closed) return false;
    this.#filling += 1;
    try {
      const isThere = await this.#fill(request, block, mayEvict).catch(this.#noteFailure);
      if (!isThere) this.#unfilled += 1;
      return isThere;
    } finally {
      this.#filling -= 1;
      if (this.#filling === 0) this.#whenIdle?.();
    }
  }

  async #fill(request: BlockRequest, block: Buffer, mayEvict: boolean): Promise<boolean> {
    const file = await this.file(request.blockBytes);
    if (this.#isSpaceCheckDue()) await this.#checkSpace();
    if (mayEvict ? !(await this.#makeRoom(file)) : !this.hasRoom(file.blockBytes)) return false;
    let result = await file.fill(block, request);
    if (result === 'no-room' && mayEvict && file.evict(EVICT_BATCH_MAX) > 0) result = await file.fill(block, request);
    switch (result) {
      case 'filled':
        this.#filled += 1;
        this.#filledSinceCheck += block.length;
        this.#scheduleTable();
        return true;
      case 'there-already':
        return true;
      case 'no-room':
        return false;
      case 'disk-full':
        // Somebody else filled the file system. Stop growing at once; the next check gives space back.
        this.#allowedBytes = this.#usedBytes();
        this.#spaceCheckedMs = Number.NEGATIVE_INFINITY;
        this.#faults.count('cache-disk-full');
        return false;
      case 'write-failed':
        this.#faults.count('cache-write-failed');
        return false;
      default:
        return result satisfies never;
    }
  }

  /** How many of the blocks are here; those are never evicted from now on, or as others again. */
  setPinned(of: {
    readonly digests: readonly Digest[];
    readonly blockBytes: number;
    readonly isPinned: boolean;
  }): number {
    const file = this.#files.get(of.blockBytes);
    const found = of.digests.filter((digest) => file?.setPinned(digest, of.isPinned) === true);
    if (found.length > 0) this.#scheduleTable();
    return found.length;
  }

  drop(request: { readonly digest: Digest; readonly blockBytes: number }): void {
    const file = this.#files.get(request.blockBytes);
    if (file === undefined || !file.has(request.digest)) return;
    file.drop(request.digest);
    this.#dropped += 1;
    this.#scheduleTable();
  }

  /** What the scrub goes over. */
  get slotFiles(): readonly SlotFile[] {
    return [...this.#files.values()];
  }

  /** The scrub found this slot to be damaged. False when it holds something else by now. */
  dropSlot(found: { readonly blockBytes: number; readonly slot: number; readonly words: readonly number[] }): boolean {
    if (this.#closed) return false;
    const file = this.#files.get(found.blockBytes);
    if (file?.dropSlot(found.slot, Uint32Array.from(found.words)) !== true) return false;
    this.#faults.count('scrub-block-damaged');
    this.#dropped += 1;
    this.#scheduleTable();
    return true;
  }

  get faults(): FaultCounts {
    let badRecords = 0;
    let discarded = 0;
    let cuts = 0;
    for (const { counters, cuts: cutsOfFile } of this.#files.values()) {
      cuts += cutsOfFile;
      badRecords += counters.badRecords;
      discarded += counters.isTableDiscarded ? 1 : 0;
    }
    return sumFaults([
      this.#faults.counts,
      { 'cache-file-cut': cuts, 'cache-record-damaged': badRecords, 'cache-table-unusable': discarded },
    ]);
  }

  get counters(): CacheCounters {
    let evicted = 0;
    let badRecords = 0;
    for (const file of this.#files.values()) {
      evicted += file.counters.evicted;
      badRecords += file.counters.badRecords;
    }
    return {
      usedBytes: this.#usedBytes(),
      filled: this.#filled,
      evicted,
      dropped: this.#dropped,
      unfilled: this.#unfilled,
      badRecords,
    };
  }

  /** Waits for fills under way, writes the tables and closes the files. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#filling > 0) await new Promise<void>((resolve) => (this.#whenIdle = resolve));
    this.#cancelTable?.();
    this.#cancelSpace();
    await this.#spaceLook;
    await this.#tableWrite;
    await Promise.allSettled(this.#opening.values());
    const results = await Promise.allSettled([...this.#files.values()].map((file) => file.close()));
    const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
    if (errors.length > 0) throw new AggregateError(errors, 'the cache could not be closed');
  }

  /** Gives up blocks until one more fits; false when nothing can be given up. */
  async #makeRoom(file: SlotFile): Promise<boolean> {
    while (this.#usedBytes() + file.blockBytes > this.#allowedBytes) {
      const payer = this.#payer();
      if (payer === undefined) return false;
      const batch = Math.max(1, Math.min(EVICT_BATCH_MAX, Math.floor(this.#allowedBytes / payer.blockBytes / 16)));
      // What the file itself gives up it uses again; what another one gives up must go back to the file system.
      const given = payer === file ? payer.evict(batch) : await payer.shrink(batch);
      if (given === 0) return false;
    }
    return true;
  }

  #payer(): SlotFile | undefined {
    const files = [...this.#files.values()];
    const at = fileToRelieve(files.map((file) => file.usedBytes));
    return at === undefined ? undefined : files[at];
  }

  /** Guests fill the file system while nothing is fetched, too. */
  #scheduleSpaceLook(): void {
    this.#cancelSpace = this.#clock.after(SPACE_CHECK_MS, () => {
      this.#scheduleSpaceLook();
      void this.#lookAtSpace();
    });
  }

  /** Between fills; one at a time, so that `close` waits for it, however long the disk takes to give space back. */
  async #lookAtSpace(): Promise<void> {
    if (this.#closed || this.#spaceLook !== undefined || !this.#isSpaceCheckDue()) return;
    this.#spaceLook = this.#checkSpace().then(
      () => {
        if ([...this.#files.values()].some((file) => file.isTableDirty)) this.#scheduleTable();
      },
      () => undefined, // a block that cannot be given back now is tried again in a second
    );
    await this.#spaceLook;
    this.#spaceLook = undefined;
  }

  #isSpaceCheckDue(): boolean {
    return (
      Math.abs(this.#nowMs() - this.#spaceCheckedMs) >= SPACE_CHECK_MS || this.#filledSinceCheck >= SPACE_CHECK_BYTES
    );
  }

  async #checkSpace(): Promise<void> {
    this.#spaceCheckedMs = this.#nowMs();
    this.#filledSinceCheck = 0;
    const { cacheBytesMax, reserveBytes } = this.#options;
    let freeBytes: number;
    try {
      freeBytes = await this.#freeBytes(this.#folder);
    } catch {
      return; // a file system that cannot say keeps the configured bound
    }
    this.#allowedBytes = cacheBytesAllowed({ cacheBytesMax, usedBytes: this.#usedBytes(), freeBytes, reserveBytes });
    while (this.#usedBytes() > this.#allowedBytes && !this.#closed) {
      const payer = this.#payer();
      if (payer === undefined) return;
      const excess = Math.ceil((this.#usedBytes() - this.#allowedBytes) / payer.blockBytes);
      if ((await payer.shrink(Math.min(SHRINK_BATCH_MAX, excess))) === 0) return;
    }
  }

  /** What the local disk refused: counted, and the block is served from memory. */
  readonly #noteFailure = (error: unknown): false => {
    if (!(error instanceof CollectiveError)) throw error;
    this.#faults.count(hasCode(error, 'disk-full') ? 'cache-disk-full' : 'cache-write-failed');
    return false;
  };

  #usedBytes(): number {
    let usedBytes = 0;
    for (const file of this.#files.values()) usedBytes += file.usedBytes;
    return usedBytes;
  }

  #scheduleTable(): void {
    if (this.#cancelTable !== undefined || this.#closed) return;
    this.#cancelTable = this.#clock.after(TABLE_DELAY_MS, () => {
      this.#cancelTable = undefined;
      this.#tableWrite = this.#tableWrite.then(() => this.#writeTables());
    });
  }

  async #writeTables(): Promise<void> {
    for (const file of this.#files.values()) {
      try {
        await file.writeTable();
      } catch {
        // A table that is behind costs fetches after the next start, nothing else. The next look at the space tries again.
        this.#faults.count('cache-table-write-failed');
      }
    }
  }
}

const isBlockBytes = (bytes: number): boolean => bytes >= 4096 && bytes <= 1_048_576 && (bytes & (bytes - 1)) === 0;
