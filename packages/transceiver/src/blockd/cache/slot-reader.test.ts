/** The protocol between reader and writer, one interleaving after the other: a file double changes things in mid-read. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { CollectiveError, blockDigest, type Digest } from '@collective/shared';
import type { RandomFile } from '../../storage/file-system.js';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { syscalls } from '../syscalls.js';
import { RECORD_WORDS, allocateSlotMemory, slotArrays, type SlotArrays, type SlotMemory } from './slot-arrays.js';
import { SlotIndex, putDigestWords } from './slot-index.js';
import { SlotReader } from './slot-reader.js';
import {
  VERIFIED,
  holdSlot,
  invalidate,
  isHeld,
  isSameContent,
  isVerified,
  markVerified,
  releaseSlot,
} from './slot-state.js';

const BLOCK = 16_384;
const good = Buffer.alloc(BLOCK, 7);
const digest = blockDigest(good);
const other = Buffer.alloc(BLOCK, 9);

/** A file in memory that calls back in the middle of each read. */
class HookedFile implements Pick<RandomFile, 'tryRead' | 'read' | 'descriptor' | 'path' | 'close'> {
  readonly path = 'double';
  readonly descriptor = undefined;
  content: Buffer;
  /** Whether reads without waiting are answered. */
  isInMemory = true;
  inMidRead: () => void = () => undefined;
  fails = false;

  constructor(content: Buffer) {
    this.content = content;
  }

  tryRead(target: Uint8Array, byteOffset: number): boolean {
    if (!this.isInMemory) return false;
    target.set(this.content.subarray(byteOffset, byteOffset + target.length));
    this.inMidRead();
    return true;
  }

  async read(target: Uint8Array, byteOffset: number): Promise<void> {
    await Promise.resolve();
    if (this.fails) throw new CollectiveError('local-io', 'the medium failed');
    target.set(this.content.subarray(byteOffset, byteOffset + target.length));
    this.inMidRead();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

let arrays: SlotArrays;
let file: HookedFile;
let reader: SlotReader;
let index: SlotIndex;
let memory: SlotMemory;
const words = new Uint32Array(4);

const putRecord = (slot: number, named: Digest): void => {
  putDigestWords(named, arrays.records, slot * RECORD_WORDS);
  index.insert(slot);
};
const readWhole = () => reader.readWhole(0, digest, words, 0);

beforeEach(() => {
  memory = allocateSlotMemory({ blockBytes: BLOCK, capacity: 4, seed: 3 });
  arrays = slotArrays(memory);
  index = new SlotIndex(arrays);
  file = new HookedFile(Buffer.concat([good, other, good, other]));
  // The double implements what a reader uses of a file.
  reader = new SlotReader(memory, file as unknown as RandomFile, { useNowait: false });
  putRecord(0, digest);
  putDigestWords(digest, words, 0);
});

describe('slot reader', () => {
  it('serves a part of a slot at once only after the whole slot was checked', async () => {
    const target = Buffer.alloc(100);
    expect(reader.tryRead(0, words, 0, target, 50)).toBe(false);
    expect(await readWhole()).toEqual({ block: good });
    expect(reader.tryRead(0, words, 0, target, 50)).toBe(true);
    expect(target.equals(good.subarray(50, 150))).toBe(true);
  });

  it('throws a synchronous read away when the slot was given other content meanwhile', async () => {
    await readWhole();
    file.inMidRead = () => void invalidate(arrays.states, 0);
    expect(reader.tryRead(0, words, 0, Buffer.alloc(4096), 0)).toBe(false);
  });

  it('throws it away also when the new content is complete and marked already', async () => {
    await readWhole();
    file.inMidRead = () => {
      const word = invalidate(arrays.states, 0);
      putRecord(0, blockDigest(other));
      markVerified(arrays.states, 0, word);
    };
    expect(reader.tryRead(0, words, 0, Buffer.alloc(4096), 0)).toBe(false);
  });

  it('does not read a slot whose record has another digest, checked and in memory as it may be', async () => {
    await readWhole();
    const wanted = new Uint32Array(4);
    putDigestWords(blockDigest(other), wanted, 0);
    expect(reader.tryRead(0, wanted, 0, Buffer.alloc(4096), 0)).toBe(false);
    expect(reader.tryRead(0, words, 0, Buffer.alloc(4096), 0)).toBe(true);
  });

  it('calls a slot damaged that does not hold what its record says, and one that cannot be read', async () => {
    file.content = Buffer.concat([other, other]);
    expect(await readWhole()).toBe('damaged');
    file.isInMemory = false;
    file.fails = true;
    expect(await readWhole()).toBe('damaged');
    expect(reader.counters.damaged).toBe(2);
    expect(isVerified(Atomics.load(arrays.states, 0))).toBe(false);
  });

  it('calls a slot gone, not damaged, when it was rewritten while it was read', async () => {
    file.content = Buffer.concat([other, other]);
    file.inMidRead = () => void invalidate(arrays.states, 0);
    expect(await readWhole()).toBe('gone');
    expect(reader.counters.damaged).toBe(0);
  });

  it('serves a checked block without marking the slot when a read of it was refused meanwhile', async () => {
    file.isInMemory = false;
    file.inMidRead = () => void invalidate(arrays.states, 0);
    expect(await readWhole()).toEqual({ block: good });
    expect(isVerified(Atomics.load(arrays.states, 0))).toBe(false);
  });

  it('holds the slot while it reads, and not longer', async () => {
    file.isInMemory = false;
    let wasHeld = false;
    file.inMidRead = () => (wasHeld = isHeld(arrays.readers, 0));
    await readWhole();
    expect(wasHeld).toBe(true);
    expect(isHeld(arrays.readers, 0)).toBe(false);
  });

  it('finds content that changed behind its back by the sums of each 4 KiB', async () => {
    await readWhole();
    file.content = Buffer.from(file.content);
    file.content[8192] = 1;
    expect(reader.tryRead(0, words, 0, Buffer.alloc(4096), 4096)).toBe(true);
    expect(reader.tryRead(0, words, 0, Buffer.alloc(4096), 8192)).toBe(false);
    expect(reader.tryRead(0, words, 0, Buffer.alloc(10), 8190)).toBe(false);
    expect(await readWhole()).toBe('damaged');
  });
});

describe('slot state', () => {
  it('lets a mark be set only while nothing happened since the check began', () => {
    const states = new Int32Array(new SharedArrayBuffer(4));
    const word = Atomics.load(states, 0);
    expect(markVerified(states, 0, word)).toBe(true);
    const next = invalidate(states, 0);
    expect(markVerified(states, 0, word)).toBe(false);
    expect(isVerified(Atomics.load(states, 0))).toBe(false);
    expect(markVerified(states, 0, next)).toBe(true);
    expect(isSameContent(states, 0, next)).toBe(true);
    expect(isSameContent(states, 0, word)).toBe(false);
  });

  it('goes on after the largest sequence', () => {
    const states = new Int32Array(new SharedArrayBuffer(4));
    states[0] = -1;
    const word = invalidate(states, 0);
    expect(word & VERIFIED).toBe(0);
    states[0] = 0x7fff_fffe;
    expect(invalidate(states, 0) & VERIFIED).toBe(0);
    expect(Atomics.load(states, 0)).toBe(-0x8000_0000);
  });

  it('bounds how many hold one slot', () => {
    const readers = new Uint8Array(new SharedArrayBuffer(1));
    for (let reader = 0; reader < 200; reader += 1) expect(holdSlot(readers, 0)).toBe(true);
    expect(holdSlot(readers, 0)).toBe(false);
    for (let reader = 0; reader < 200; reader += 1) releaseSlot(readers, 0);
    expect(isHeld(readers, 0)).toBe(false);
  });
});

describe('a page that is there unchecked', () => {
  /*
   * Seen in test/integrity: preadv2(RWF_NOWAIT) is not only answered from the page cache. It begins to read what is not there, and when
   * that is through at once it serves it: a hole is, at once and always; so are a medium as fast as memory, and any medium when the
   * thread was preempted in between. Slots of a file that had been cut and had grown again read as zeroes under their marks.
   */
  it('a NOWAIT read that fetched its page itself is not served under the mark', async () => {
    let medium = good;
    reader = new SlotReader(memory, file as unknown as RandomFile, {
      readNowait: (target, byteOffset) => {
        target.set(medium.subarray(byteOffset, byteOffset + target.length));
        return target.length;
      },
    });
    expect(await readWhole()).toEqual({ block: good });
    const target = Buffer.alloc(4096);
    expect(reader.tryRead(0, words, 0, target, 0)).toBe(true);
    medium = Buffer.from(good);
    medium[9000] = 8;
    expect(reader.tryRead(0, words, 0, target, 0)).toBe(true); // another page
    for (const [within, byteLength] of [
      [8192, 4096],
      [8999, 2],
      [0, BLOCK],
    ] as const) {
      await readWhole();
      expect(reader.tryRead(0, words, 0, Buffer.alloc(byteLength), within)).toBe(false);
      expect(isVerified(Atomics.load(arrays.states, 0))).toBe(false);
    }
    expect(reader.counters.mismatched).toBeGreaterThanOrEqual(3);
  });

  it.runIf(syscalls !== undefined)('a hole that a cut file has got is not served as zeroes', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-slot-reader-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const slots = path.join(folder, 'slots');
    await writeFile(slots, good);
    const real = await new LocalFileSystem().open(slots, 'write');
    reader = new SlotReader(memory, real);
    onTestFinished(() => reader.close());
    expect(await readWhole()).toEqual({ block: good });
    expect(reader.tryRead(0, words, 0, Buffer.alloc(4096), 4096)).toBe(true);
    await real.setByteLength(0);
    await real.setByteLength(BLOCK);
    expect(reader.tryRead(0, words, 0, Buffer.alloc(4096), 4096)).toBe(false);
    expect(await readWhole()).toBe('damaged');
  });
});
