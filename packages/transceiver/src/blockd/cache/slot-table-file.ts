/**
 * The side table of a slot file on its medium (its form: slot-table.ts): read once at the open, then written where records have changed, when
 * the owner finds the time. The records themselves are the shared arrays of the slot file.
 */
import { hasCode } from '@collective/shared';
import type { RandomFile } from '../../storage/file-system.js';
import { RECORD_BYTES, RECORD_WORDS, slotArrays, type SlotArrays, type SlotMemory } from './slot-arrays.js';
import {
  FLAGS_WORD,
  SLOT_USED,
  TABLE_HEADER_BYTES,
  encodeTableHeader,
  isTableHeader,
  recordByteOffset,
  sealRecord,
} from './slot-table.js';
import { slotRanges } from './space-plan.js';
import { frequencyOf } from './touches.js';

export class SlotTableFile {
  readonly #file: RandomFile;
  readonly #memory: SlotMemory;
  readonly #arrays: SlotArrays;
  readonly #dirty = new Set<number>();
  #slotsReached = 0;
  #isDiscarded = false;
  /** The header could not be written yet. */
  #lacksHeader = false;

  /** Takes over the file. */
  constructor(file: RandomFile, memory: SlotMemory) {
    this.#file = file;
    this.#memory = memory;
    this.#arrays = slotArrays(memory);
  }

  /** It was there and was of no use. */
  get isDiscarded(): boolean {
    return this.#isDiscarded;
  }

  /** No record at or behind this slot was ever in use. */
  get slotsReached(): number {
    return this.#slotsReached;
  }

  get isDirty(): boolean {
    return this.#dirty.size > 0;
  }

  /**
   * Reads the records; how many, or undefined when the table cannot be used: none is there, or another version's, a cut or an unreadable
   * one. `slotsInFile` is asked when its header is good; one whose slots cannot be looked at is of no use either.
   */
  async read(slotsInFile: () => Promise<number>): Promise<number | undefined> {
    const tableBytes = await this.#file.byteLength();
    if (tableBytes === 0) return undefined;
    try {
      const header = Buffer.alloc(TABLE_HEADER_BYTES);
      if (tableBytes >= TABLE_HEADER_BYTES) await this.#file.read(header, 0);
      if (isTableHeader(header, this.#memory.blockBytes)) {
        const recordCount = Math.floor((tableBytes - TABLE_HEADER_BYTES) / RECORD_BYTES);
        const count = Math.min(await slotsInFile(), recordCount);
        if (count > 0)
          await this.#file.read(new Uint8Array(this.#memory.records, 0, count * RECORD_BYTES), TABLE_HEADER_BYTES);
        this.#slotsReached = count;
        return count;
      }
    } catch (error) {
      if (!isOfDisk(error)) throw error;
      this.#arrays.records.fill(0); // a part may have been read
    }
    this.#isDiscarded = true;
    return undefined;
  }

  /** Until `writeHeader` it is one that counts for nothing, also where the disk refuses to empty it. Errors: `local-io`, `disk-full`. */
  async empty(): Promise<void> {
    this.#lacksHeader = true;
    await this.#file.setByteLength(0);
  }

  /** Unless it is there. Errors: `local-io`, `disk-full`. */
  async writeHeader(): Promise<void> {
    if (!this.#lacksHeader) return;
    await this.#file.write(encodeTableHeader(this.#memory.blockBytes), 0);
    this.#lacksHeader = false;
  }

  /** The slot's record has changed. */
  note(slot: number): void {
    this.#dirty.add(slot);
    if (slot >= this.#slotsReached) this.#slotsReached = slot + 1;
  }

  /** Writes the records that changed since the last time; what could not be written stays to be written. */
  async write(): Promise<void> {
    if (this.#dirty.size === 0) return;
    const slots = [...this.#dirty];
    this.#dirty.clear();
    try {
      await this.writeHeader();
      for (const { firstSlot, slotCount } of slotRanges(slots)) await this.#writeRecords(firstSlot, slotCount);
    } catch (error) {
      for (const slot of slots) this.#dirty.add(slot);
      throw error;
    }
  }

  /** Writes it whole, with the frequencies, and closes the file. One that the disk refuses costs fetches, no more. */
  async close(): Promise<void> {
    try {
      this.#dirty.clear();
      await this.writeHeader();
      if (this.#slotsReached > 0) await this.#writeRecords(0, this.#slotsReached);
    } catch (error) {
      if (!isOfDisk(error)) throw error;
    } finally {
      await this.#file.close();
    }
  }

  async #writeRecords(firstSlot: number, slotCount: number): Promise<void> {
    const { records, touches } = this.#arrays;
    for (let slot = firstSlot; slot < firstSlot + slotCount; slot += 1) {
      const flags = records[slot * RECORD_WORDS + FLAGS_WORD] ?? 0;
      if ((flags & SLOT_USED) !== 0) sealRecord(records, slot, frequencyOf(touches[slot] ?? 0));
    }
    const bytes = new Uint8Array(this.#memory.records, firstSlot * RECORD_BYTES, slotCount * RECORD_BYTES);
    await this.#file.write(bytes, recordByteOffset(firstSlot));
  }
}

const isOfDisk = (error: unknown): boolean => hasCode(error, 'local-io') || hasCode(error, 'disk-full');
