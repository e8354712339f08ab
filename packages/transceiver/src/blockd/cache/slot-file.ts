/**
 * The cache's blocks of one size: a file of fixed slots, uncompressed, and its side table (slot-table-file.ts). Lives in the fetching thread,
 * which alone fills, evicts and writes the table; the serving thread reads the same file and the shared arrays.
 *
 * No journal and no sync: after a crash the table may be behind the slots or ahead of them, and the worst of it is a block
 * that is fetched again, because nothing is served that was not checked against its digest.
 *
 * A slot's life: free -> taken (being written) -> used (in the index, in a queue unless pinned) -> free. One whose content
 * turned out to be damaged leaves the index at once and becomes free when its queue comes to it.
 */
import type { Digest } from '@collective/shared';
import { hasCode } from '@collective/shared';
import { EncryptedFile } from '../../storage/encrypted-file.js';
import type { FileSystem, RandomFile } from '../../storage/file-system.js';
import type { SectorCipher } from '../../storage/sector-cipher.js';
import { syscalls } from '../syscalls.js';
import { EvictionOrder } from './eviction-order.js';
import { Placement } from './placement.js';
import {
  DIGEST_WORDS,
  RECORD_WORDS,
  allocateSlotMemory,
  slotArrays,
  slotMemoryBytes,
  type SlotArrays,
  type SlotMemory,
} from './slot-arrays.js';
import { NO_SLOT, SlotIndex, putDigestWords } from './slot-index.js';
import { invalidate, isHeld, markVerified } from './slot-state.js';
import { SlotTableFile } from './slot-table-file.js';
import { FLAGS_MASK, FLAGS_WORD, SLOT_PINNED, SLOT_QUEUED, SLOT_TAKEN, SLOT_USED, loadRecords } from './slot-table.js';
import { slotRanges } from './space-plan.js';
import { epochOf, freshTouch } from './touches.js';

export type FillResult = 'filled' | 'there-already' | 'no-room' | 'disk-full' | 'write-failed';

export type SlotFileOptions = {
  readonly blockBytes: number;
  /** Slots at most; a file that has more is cut. */
  readonly capacity: number;
  readonly nowMs: () => number;
  /** The blocks are encrypted with it; the table is not. */
  readonly cipher?: SectorCipher | undefined;
};

export const slotFileName = (blockBytes: number): string => `${blockBytes}.slots`;
export const slotTableName = (blockBytes: number): string => `${blockBytes}.table`;

export class SlotFile {
  readonly memory: SlotMemory;
  readonly blockBytes: number;
  readonly #arrays: SlotArrays;
  readonly #index: SlotIndex;
  readonly #order: EvictionOrder;
  readonly #placement: Placement;
  readonly #slots: RandomFile;
  readonly #table: SlotTableFile;
  readonly #nowMs: () => number;
  readonly #wanted = new Uint32Array(DIGEST_WORDS);
  #usedSlots = 0;
  #takenSlots = 0;
  /** The slot file is at least so long, unless somebody cut it. */
  #bytesReached = 0;
  #cuts = 0;
  #evicted = 0;
  #badRecords = 0;

  private constructor(memory: SlotMemory, files: { slots: RandomFile; table: RandomFile }, nowMs: () => number) {
    this.memory = memory;
    this.blockBytes = memory.blockBytes;
    this.#arrays = slotArrays(memory);
    this.#index = new SlotIndex(this.#arrays);
    this.#order = new EvictionOrder(this.#arrays);
    this.#placement = new Placement({
      blockBytes: memory.blockBytes,
      capacity: memory.capacity,
      isFree: (slot) => (this.#flagsOf(slot) & FLAGS_MASK) === 0,
    });
    this.#slots = files.slots;
    this.#table = new SlotTableFile(files.table, memory);
    this.#nowMs = nowMs;
  }

  /** Opens or makes the two files of that block size in `folder`. Nothing in them is trusted. Errors: `local-io`, `disk-full`. */
  static async open(fileSystem: FileSystem, folder: string, options: SlotFileOptions): Promise<SlotFile> {
    const { blockBytes, capacity, nowMs, cipher } = options;
    const seed = Math.floor(Math.random() * 0x1_0000_0000) | 0;
    const memory = allocateSlotMemory({ blockBytes, capacity, seed });
    const opened: RandomFile[] = [];
    const openFile = async (name: string): Promise<RandomFile> => {
      const file = await openOrCreate(fileSystem, `${folder}/${name}`);
      opened.push(file);
      return file;
    };
    try {
      const raw = await openFile(slotFileName(blockBytes));
      const slots = cipher === undefined ? raw : new EncryptedFile(raw, cipher);
      if (slots.descriptor !== undefined) syscalls?.advise(slots.descriptor, 0, 0, 'random');
      const table = await openFile(slotTableName(blockBytes));
      const file = new SlotFile(memory, { slots, table }, nowMs);
      await file.#load();
      return file;
    } catch (error) {
      for (const file of opened) await file.close();
      throw error;
    }
  }

  async #load(): Promise<void> {
    const slotCount = await this.#table.read(() => this.#slotsInFile());
    if (slotCount === undefined) {
      await this.#beginAnew();
      return;
    }
    const loaded = loadRecords(this.#arrays, this.#order, slotCount);
    this.#usedSlots = loaded.usedSlots;
    this.#badRecords = loaded.badRecords;
    this.#placement.load(slotCount);
  }

  /** How many there are; a file that has more than may be is cut. */
  async #slotsInFile(): Promise<number> {
    const { capacity } = this.memory;
    const slotCount = Math.floor((await this.#slots.byteLength()) / this.blockBytes);
    this.#bytesReached = Math.min(slotCount, capacity) * this.blockBytes;
    if (slotCount > capacity) await this.#slots.setByteLength(capacity * this.blockBytes);
    return Math.min(slotCount, capacity);
  }

  /** Empties both files. Where the disk refuses, the table does without a header for now: then it counts for nothing. */
  async #beginAnew(): Promise<void> {
    try {
      await this.#table.empty();
      await this.#slots.setByteLength(0);
      await this.#table.writeHeader();
    } catch (error) {
      if (!hasCode(error, 'local-io') && !hasCode(error, 'disk-full')) throw error;
    }
  }

  get usedBytes(): number {
    return (this.#usedSlots + this.#takenSlots) * this.blockBytes;
  }

  get usedSlots(): number {
    return this.#usedSlots;
  }

  /** Memory that grows with the number of slots. */
  get memoryBytes(): number {
    return slotMemoryBytes(this.memory) + this.#order.memoryBytes;
  }

  /** How often somebody cut the slot file while it was in use. */
  get cuts(): number {
    return this.#cuts;
  }

  get counters(): { readonly evicted: number; readonly badRecords: number; readonly isTableDiscarded: boolean } {
    return { evicted: this.#evicted, badRecords: this.#badRecords, isTableDiscarded: this.#table.isDiscarded };
  }

  has(digest: Digest): boolean {
    return this.#find(digest) !== NO_SLOT;
  }

  /**
   * Puts a verified block into a slot of its neighbourhood. `no-room` when every slot is used and none can be given up:
   * the caller may evict and try again. `block` is borrowed until it resolves.
   */
  async fill(block: Buffer, request: { readonly digest: Digest; readonly neighbourhood: number }): Promise<FillResult> {
    if (this.has(request.digest)) return 'there-already';
    const slot = this.#placement.take(request.neighbourhood);
    if (slot === undefined) return 'no-room';
    this.#setFlags(slot, SLOT_TAKEN);
    this.#takenSlots += 1;
    const word = invalidate(this.#arrays.states, slot);
    let isCut: boolean;
    try {
      const byteOffset = slot * this.blockBytes;
      this.#noticeCut();
      if (!this.#slots.tryWrite(block, byteOffset)) await this.#slots.write(block, byteOffset);
      isCut = this.#noticeCut();
      this.#bytesReached = Math.max(this.#bytesReached, byteOffset + this.blockBytes);
    } catch (error) {
      this.#free(slot);
      if (hasCode(error, 'disk-full')) return 'disk-full';
      if (hasCode(error, 'local-io')) return 'write-failed';
      throw error;
    }
    const record = slot * RECORD_WORDS;
    putDigestWords(request.digest, this.#arrays.records, record);
    if (!this.#index.insert(slot)) {
      this.#free(slot); // another fill of the same block was faster
      return 'there-already';
    }
    this.#takenSlots -= 1;
    this.#usedSlots += 1;
    this.#setFlags(slot, SLOT_USED);
    this.#arrays.touches[slot] = freshTouch(epochOf(this.#nowMs()));
    this.#order.insert(slot, this.#order.queueFor(slot));
    if (!isCut) markVerified(this.#arrays.states, slot, word);
    this.#table.note(slot);
    return 'filled';
  }

  /**
   * Whether somebody has made the slot file shorter under our feet. A read behind the cut is refused by itself; but a write that
   * makes the file longer again leaves zeroes before it, and one of them may be in a page that is in memory, of a slot that is
   * marked. So this is looked at around each write, and then every slot is to be checked anew. Errors: `local-io`.
   */
  #noticeCut(): boolean {
    const byteLength = this.#slots.byteLengthNow();
    if (byteLength >= this.#bytesReached) return false;
    for (let slot = 0; slot < this.#table.slotsReached; slot += 1) {
      if ((this.#flagsOf(slot) & SLOT_USED) !== 0) invalidate(this.#arrays.states, slot);
    }
    this.#bytesReached = byteLength;
    this.#cuts += 1;
    return true;
  }

  /** Gives up blocks until `slotsMax` are given up or nothing can be. The slots are free and keep their space. */
  evict(slotsMax: number): number {
    const slots = this.#takeVictims(slotsMax);
    for (const slot of slots) this.#free(slot);
    return slots.length;
  }

  /** As `evict`, and gives the space back to the file system. Resolves when it has. */
  async shrink(slotsMax: number): Promise<number> {
    const slots = this.#takeVictims(slotsMax);
    try {
      if (this.#slots.zeroIsFast) {
        for (const { firstSlot, slotCount } of slotRanges(slots)) {
          await this.#slots.zero(firstSlot * this.blockBytes, slotCount * this.blockBytes, { keepAllocated: false });
        }
      }
    } finally {
      for (const slot of slots) this.#free(slot);
    }
    return slots.length;
  }

  /** The content of the slot that holds this digest is damaged: forget it. */
  drop(digest: Digest): void {
    const slot = this.#find(digest);
    if (slot !== NO_SLOT) this.#dropUsed(slot);
  }

  /** As `drop`, by slot: when it still holds the block whose digest begins with these words. False when it does not. */
  dropSlot(slot: number, words: Uint32Array): boolean {
    if ((this.#flagsOf(slot) & SLOT_USED) === 0 || !this.#index.hasDigest(slot, words, 0)) return false;
    this.#dropUsed(slot);
    return true;
  }

  #dropUsed(slot: number): void {
    const isQueued = this.#order.isQueued(slot);
    this.#forget(slot);
    // A slot in a queue cannot be used again before the queue comes to it.
    if (isQueued) this.#setFlags(slot, SLOT_QUEUED);
    else this.#free(slot);
  }

  /** Pinned blocks are never evicted. False when the block is not here. */
  setPinned(digest: Digest, isPinned: boolean): boolean {
    const slot = this.#find(digest);
    if (slot === NO_SLOT) return false;
    const flags = this.#flagsOf(slot) & FLAGS_MASK;
    this.#setFlags(slot, isPinned ? flags | SLOT_PINNED : flags & ~SLOT_PINNED);
    if (!isPinned && !this.#order.isQueued(slot)) this.#order.insert(slot, 'main');
    this.#table.note(slot);
    return true;
  }

  get isTableDirty(): boolean {
    return this.#table.isDirty;
  }

  /** Writes the records that changed since the last time; what could not be written stays to be written. */
  async writeTable(): Promise<void> {
    await this.#table.write();
  }

  /** Writes the table whole, with the frequencies, and closes the files. A table that cannot be written costs fetches, no more. */
  async close(): Promise<void> {
    try {
      await this.#table.close();
    } finally {
      await this.#slots.close();
    }
  }

  /** Takes slots out of queues and index; they are `taken` afterwards. */
  #takeVictims(slotsMax: number): number[] {
    const victims: number[] = [];
    while (victims.length < slotsMax) {
      const slot = this.#order.takeVictim({
        isHeld: (candidate) => isHeld(this.#arrays.readers, candidate),
        onLeft: (left) => this.#free(left),
      });
      if (slot === undefined) break;
      invalidate(this.#arrays.states, slot);
      if (isHeld(this.#arrays.readers, slot)) {
        // A reader came between the judgement and the new sequence: it may finish.
        this.#order.insert(slot, 'main');
        continue;
      }
      this.#forget(slot);
      this.#setFlags(slot, SLOT_TAKEN);
      this.#takenSlots += 1;
      this.#evicted += 1;
      victims.push(slot);
    }
    return victims;
  }

  /** Out of the index, digest gone, no longer used. */
  #forget(slot: number): void {
    invalidate(this.#arrays.states, slot);
    this.#index.remove(slot);
    const record = slot * RECORD_WORDS;
    this.#arrays.records.fill(0, record, record + RECORD_WORDS);
    this.#usedSlots -= 1;
    this.#table.note(slot);
  }

  #free(slot: number): void {
    if ((this.#flagsOf(slot) & SLOT_TAKEN) !== 0) this.#takenSlots -= 1;
    const record = slot * RECORD_WORDS;
    this.#arrays.records.fill(0, record, record + RECORD_WORDS);
    this.#placement.release(slot);
  }

  #find(digest: Digest): number {
    putDigestWords(digest, this.#wanted, 0);
    return this.#index.find(this.#wanted, 0);
  }

  #flagsOf(slot: number): number {
    return this.#arrays.records[slot * RECORD_WORDS + FLAGS_WORD] ?? 0;
  }

  #setFlags(slot: number, flags: number): void {
    this.#arrays.records[slot * RECORD_WORDS + FLAGS_WORD] = flags;
  }
}

const openOrCreate = async (fileSystem: FileSystem, path: string): Promise<RandomFile> => {
  try {
    return await fileSystem.open(path, 'write');
  } catch (error) {
    if (!hasCode(error, 'not-found')) throw error;
    return await fileSystem.open(path, 'create');
  }
};
