/**
 * Checks slots of one slot file against their records, one at a time, on a thread of its own: bytes that go bad on the medium are
 * found before somebody needs them.
 *
 * It reads past the page cache (O_DIRECT), because what lies in memory says nothing of the medium and because a pass over the
 * whole cache must not push out what guests use. Some file systems answer such a read through the page cache after all (encrypted or
 * compressed files), and pages come in that nobody has checked: that does no harm, because the reader compares what it serves with
 * the sums of its own last check, wherever the pages came from. So the scrub needs no more than to hold the slot while it reads.
 *
 * Only 16 bytes of the digest are in the record: enough to see decay. Whoever serves the block compares all 32.
 */
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { syscalls } from '../syscalls.js';
import { publicNaming, type BlockNaming } from './block-naming.js';
import { DIGEST_WORDS, RECORD_WORDS, slotArrays, type SlotArrays, type SlotMemory } from './slot-arrays.js';
import { holdSlot, isSameContent, releaseSlot } from './slot-state.js';
import { FLAGS_WORD, SLOT_TAKEN, SLOT_USED } from './slot-table.js';

/** `free`: it holds nothing. `gone`: it got other content meanwhile. `unreadable`: the medium gave an error, or the file ends before it. */
export type ScrubVerdict = 'good' | 'damaged' | 'unreadable' | 'free' | 'gone';

/** Fills the whole of `target` or throws. */
export type ReadSlotBytes = (target: Uint8Array, byteOffset: number) => void;

const WASM_PAGE_BYTES = 65_536;
/** All of it that is used here; TypeScript's library has it for browsers only. */
declare const WebAssembly: {
  readonly Memory: new (pages: { readonly initial: number; readonly maximum: number }) => {
    readonly buffer: ArrayBuffer;
  };
};

/** Memory on a page boundary, as O_DIRECT wants it: Node's own buffers lie anywhere. */
export const alignedBuffer = (byteLength: number): Buffer => {
  const pages = Math.ceil(byteLength / WASM_PAGE_BYTES);
  return Buffer.from(new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer, 0, byteLength);
};

export class SlotScrubber {
  readonly blockBytes: number;
  readonly capacity: number;
  readonly #arrays: SlotArrays;
  readonly #block: Buffer;
  readonly #read: ReadSlotBytes;
  readonly #naming: BlockNaming;
  /** The digest that the slot of the last check should have had, as in its record. */
  readonly expected = new Uint32Array(DIGEST_WORDS);
  readonly #prefix = Buffer.from(this.expected.buffer);

  constructor(memory: SlotMemory, read: ReadSlotBytes, naming: BlockNaming = publicNaming) {
    this.blockBytes = memory.blockBytes;
    this.capacity = memory.capacity;
    this.#arrays = slotArrays(memory);
    this.#block = alignedBuffer(memory.blockBytes);
    this.#read = read;
    this.#naming = naming;
  }

  /** Whether there is something to check, at a glance. */
  isUsed(slot: number): boolean {
    const flags = this.#arrays.records[slot * RECORD_WORDS + FLAGS_WORD] ?? 0;
    return (flags & SLOT_USED) !== 0 && (flags & SLOT_TAKEN) === 0;
  }

  /** Reads the slot and compares. Blocks the calling thread for as long as the medium takes. */
  check(slot: number): ScrubVerdict {
    const { readers, states } = this.#arrays;
    if (!this.isUsed(slot) || !holdSlot(readers, slot)) return 'free';
    try {
      const word = Atomics.load(states, slot);
      if (!this.#copyRecord(slot)) return 'free';
      let isReadable = true;
      try {
        this.#read(this.#block, slot * this.blockBytes);
      } catch {
        isReadable = false;
      }
      if (!isSameContent(states, slot, word)) return 'gone';
      if (!isReadable) return 'unreadable';
      // (Words and bytes are little-endian, here and on the medium.)
      return this.#naming.beginsWith(this.#block, this.#prefix) ? 'good' : 'damaged';
    } finally {
      releaseSlot(readers, slot);
    }
  }

  #copyRecord(slot: number): boolean {
    const record = slot * RECORD_WORDS;
    for (let word = 0; word < DIGEST_WORDS; word += 1) this.expected[word] = this.#arrays.records[record + word] ?? 0;
    return this.isUsed(slot);
  }
}

/** The slot file at `path`, read past the page cache where that can be had; what came into it otherwise is dropped again. */
export const openForScrub = (path: string): { readonly read: ReadSlotBytes; readonly close: () => void } => {
  let fd: number;
  let isDirect = true;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_DIRECT);
  } catch {
    fd = openSync(path, constants.O_RDONLY);
    isDirect = false;
  }
  return {
    read: (target, byteOffset) => {
      const count = readSync(fd, target, 0, target.length, byteOffset);
      if (!isDirect) syscalls?.advise(fd, byteOffset, target.length, 'drop');
      if (count !== target.length) throw new RangeError(`${path} ends in the slot at byte ${byteOffset}`);
    },
    close: () => closeSync(fd),
  };
};
