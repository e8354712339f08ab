/**
 * What is in memory for each slot of a slot file, as typed arrays over shared memory: 40 bytes a slot.
 *
 *   records  24  the image of the side table: 16 bytes of digest | flags | checksum  (words, see slot-table.ts)
 *   index     8  open addressing at load <= 0.5: slot + 1, 0 when empty
 *   states    4  sequence and verified mark (slot-state.ts)
 *   readers   1  how many asynchronous reads are using the slot now
 *   touches   1  how often it was read, and when last (touches.ts)
 *   (and with the writer alone: next 4, ghosts 2: eviction-order.ts)
 *
 * The fetching thread is the only writer of records and index. The serving thread reads them without a lock: the
 * writer bumps a slot's sequence before it changes anything, and a reader that finds the sequence unchanged afterwards
 * has read one state. A lookup that races with a removal may miss what is there; it is then asked of the writer.
 */
export const RECORD_WORDS = 6;
export const RECORD_BYTES = RECORD_WORDS * 4;
/** How much of a digest is held in memory and in the side table: 16 bytes. */
export const DIGEST_WORDS = 4;

/** What one thread sends the other; both build the same SlotArrays from it. */
export type SlotMemory = {
  readonly blockBytes: number;
  readonly capacity: number;
  /** Random, so that nobody can prepare digests that collide in the index. */
  readonly seed: number;
  readonly records: SharedArrayBuffer;
  readonly index: SharedArrayBuffer;
  readonly states: SharedArrayBuffer;
  readonly readers: SharedArrayBuffer;
  readonly touches: SharedArrayBuffer;
};

export type SlotArrays = {
  readonly blockBytes: number;
  readonly capacity: number;
  readonly seed: number;
  readonly records: Uint32Array;
  readonly index: Uint32Array;
  readonly states: Int32Array;
  readonly readers: Uint8Array;
  readonly touches: Uint8Array;
};

/** Zeroed memory for so many slots; pages that are never touched cost nothing. */
export const allocateSlotMemory = (options: {
  readonly blockBytes: number;
  readonly capacity: number;
  readonly seed: number;
}): SlotMemory => ({
  ...options,
  records: new SharedArrayBuffer(options.capacity * RECORD_BYTES),
  index: new SharedArrayBuffer(Math.max(2, options.capacity * 2) * 4),
  states: new SharedArrayBuffer(options.capacity * 4),
  readers: new SharedArrayBuffer(options.capacity),
  touches: new SharedArrayBuffer(options.capacity),
});

export const slotArrays = (memory: SlotMemory): SlotArrays => ({
  blockBytes: memory.blockBytes,
  capacity: memory.capacity,
  seed: memory.seed,
  records: new Uint32Array(memory.records),
  index: new Uint32Array(memory.index),
  states: new Int32Array(memory.states),
  readers: new Uint8Array(memory.readers),
  touches: new Uint8Array(memory.touches),
});

/** The bytes of memory that belong to a slot file, with what only the writer holds. */
export const slotMemoryBytes = (memory: SlotMemory): number =>
  memory.records.byteLength +
  memory.index.byteLength +
  memory.states.byteLength +
  memory.readers.byteLength +
  memory.touches.byteLength;
