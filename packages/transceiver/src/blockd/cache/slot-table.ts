/**
 * The side table of a slot file (docs/formats/cache.md), little-endian:
 *
 *   header 4,096: magic 4 | blockBytes 4 | reserved … | checksum 4 (of the first 12 bytes)
 *   then 24 a slot: digest 16 | flags 1 | frequency 1 | reserved 2 | checksum 4 (of slot number and the fields before)
 *
 * It is written lazily and never synced: a record that is lost, stale or torn costs a fetch, because the content of a
 * slot is checked against its digest before anything is served. What this file decides is only what is worth a look.
 */
import type { EvictionOrder } from './eviction-order.js';
import { RECORD_BYTES, RECORD_WORDS, type SlotArrays } from './slot-arrays.js';
import { homePosition } from './slot-index.js';
import { FREQUENCY_MAX, freshTouch } from './touches.js';

export const TABLE_HEADER_BYTES = 4096;

const MAGIC = 0x01545343; // "CST", 1

/** Flags of a record, in the low byte of its fifth word. */
export const SLOT_TAKEN = 1; // being written, or waiting for its space to be given back; never on the medium
export const SLOT_USED = 2;
export const SLOT_MAIN = 4; // has proved itself: in the main queue of the eviction order
export const SLOT_PINNED = 8;
export const SLOT_QUEUED = 16; // is in one of the queues; in memory only
/** All of them: a slot with none is free. */
export const FLAGS_MASK = 0xff;
const FLAGS_STORED = SLOT_USED | SLOT_MAIN | SLOT_PINNED;

export const FLAGS_WORD = 4;
const CHECKSUM_WORD = 5;

export const encodeTableHeader = (blockBytes: number): Buffer => {
  const header = Buffer.alloc(TABLE_HEADER_BYTES);
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt32LE(blockBytes, 4);
  header.writeUInt32LE(headerChecksum(blockBytes), 12);
  return header;
};

/** Whether it is a table of this program for blocks of that size; any other is thrown away. */
export const isTableHeader = (header: Buffer, blockBytes: number): boolean =>
  header.length === TABLE_HEADER_BYTES &&
  header.readUInt32LE(0) === MAGIC &&
  header.readUInt32LE(4) === blockBytes &&
  header.readUInt32LE(12) === headerChecksum(blockBytes) &&
  header.readUInt32LE(8) === 0;

const headerChecksum = (blockBytes: number): number => Math.imul(blockBytes ^ MAGIC, 0x9e3779b1) >>> 0;

/** Brings the record's stored form up to date: its frequency and its checksum. */
export const sealRecord = (records: Uint32Array, slot: number, frequency: number): void => {
  const at = slot * RECORD_WORDS;
  records[at + FLAGS_WORD] = ((records[at + FLAGS_WORD] ?? 0) & 0xff) | (frequency << 8);
  records[at + CHECKSUM_WORD] = recordChecksum(records, at, slot);
};

// A few rounds of multiply and shift: enough against torn and flipped records, 20 times as fast as a call of zlib.crc32.
const recordChecksum = (records: Int32Array | Uint32Array, at: number, slot: number): number => {
  let sum = Math.imul(slot + 1, 0x9e3779b1) ^ ((records[at + FLAGS_WORD] ?? 0) & (FLAGS_STORED | 0xffff00));
  sum = Math.imul(sum ^ (records[at] ?? 0), 0x85ebca6b);
  sum = Math.imul(sum ^ (sum >>> 13) ^ (records[at + 1] ?? 0), 0xc2b2ae35);
  sum = Math.imul(sum ^ (sum >>> 16) ^ (records[at + 2] ?? 0), 0x85ebca6b);
  sum = Math.imul(sum ^ (sum >>> 13) ^ (records[at + 3] ?? 0), 0xc2b2ae35);
  return sum ^ (sum >>> 16);
};

export type LoadedTable = { readonly usedSlots: number; readonly badRecords: number };

/**
 * Takes over records that were read from the medium into `arrays.records` (the first `recordCount`): clears what is free or
 * damaged, and builds queues and index. A digest that is there twice (a table that was behind) stays twice: one of the two
 * will turn out to be damaged when it is read. Loops as tight as they are because 1,000,000 records are to take 100 ms.
 */
export const loadRecords = (arrays: SlotArrays, order: EvictionOrder, recordCount: number): LoadedTable => {
  const loaded = checkRecords(arrays, recordCount);
  order.load(recordCount);
  indexRecords(arrays, recordCount);
  return loaded;
};

const checkRecords = ({ records: { buffer }, touches }: SlotArrays, recordCount: number): LoadedTable => {
  const records = new Int32Array(buffer); // signed: unsigned words above 2^31 are objects until the loop is compiled
  let usedSlots = 0;
  let badRecords = 0;
  for (let slot = 0, at = 0; slot < recordCount; slot += 1, at += RECORD_WORDS) {
    const flagsWord = records[at + FLAGS_WORD] ?? 0;
    if ((flagsWord & SLOT_USED) !== 0 && records[at + CHECKSUM_WORD] === recordChecksum(records, at, slot)) {
      records[at + FLAGS_WORD] = flagsWord & FLAGS_STORED;
      touches[slot] = freshTouch(0, (flagsWord >>> 8) & FREQUENCY_MAX);
      usedSlots += 1;
    } else if (flagsWord !== 0) {
      if ((flagsWord & SLOT_USED) !== 0) badRecords += 1;
      records.fill(0, at, at + RECORD_WORDS);
    }
  }
  return { usedSlots, badRecords };
};

const indexRecords = ({ records: { buffer }, index, seed }: SlotArrays, recordCount: number): void => {
  const records = new Int32Array(buffer);
  const length = index.length;
  for (let slot = 0, at = 0; slot < recordCount; slot += 1, at += RECORD_WORDS) {
    if (((records[at + FLAGS_WORD] ?? 0) & SLOT_USED) === 0) continue;
    let position = homePosition(records[at] ?? 0, records[at + 1] ?? 0, seed, length);
    while (index[position] !== 0) position = position + 1 === length ? 0 : position + 1;
    index[position] = slot + 1;
  }
};

export const recordByteOffset = (slot: number): number => TABLE_HEADER_BYTES + slot * RECORD_BYTES;
