/** What the scrub finds, and that a page which it brings in is never served unchecked. */
import { beforeEach, describe, expect, it } from 'vitest';
import { blockDigest, type Digest } from '@collective/shared';
import type { RandomFile } from '../../storage/file-system.js';
import { allocateSlotMemory, slotArrays, type SlotArrays } from './slot-arrays.js';
import { SlotIndex, putDigestWords } from './slot-index.js';
import { SlotReader } from './slot-reader.js';
import { SlotScrubber } from './slot-scrubber.js';
import { holdSlot, invalidate, isHeld, isVerified } from './slot-state.js';
import { FLAGS_WORD, SLOT_QUEUED, SLOT_TAKEN, SLOT_USED } from './slot-table.js';

const BLOCK = 16_384;
const good = Buffer.alloc(BLOCK, 7);
const bad = Buffer.alloc(BLOCK, 9);
const digest: Digest = blockDigest(good);

/** One slot's worth of medium and of page cache: whoever reads brings in what the medium holds then. */
class CachedMedium implements Pick<RandomFile, 'tryRead' | 'read' | 'descriptor' | 'path' | 'close'> {
  readonly path = 'double';
  readonly descriptor = undefined;
  medium = Buffer.from(good);
  inMemory: Buffer | undefined;
  /** After the bytes of a waiting read have come in, before its caller sees them. */
  afterRead: () => void = () => undefined;

  bringIn(): Buffer {
    return (this.inMemory ??= Buffer.from(this.medium));
  }

  tryRead(target: Uint8Array, byteOffset: number): boolean {
    if (this.inMemory === undefined) return false;
    target.set(this.inMemory.subarray(byteOffset, byteOffset + target.length));
    return true;
  }

  async read(target: Uint8Array, byteOffset: number): Promise<void> {
    await Promise.resolve();
    target.set(this.bringIn().subarray(byteOffset, byteOffset + target.length));
    this.afterRead();
  }

  /** preadv2(RWF_NOWAIT). */
  readonly readNowait = (target: Uint8Array, byteOffset: number): number =>
    this.tryRead(target, byteOffset) ? target.length : -11;

  close(): Promise<void> {
    return Promise.resolve();
  }
}

let arrays: SlotArrays;
let file: CachedMedium;
let reader: SlotReader;
let scrubber: SlotScrubber;
/** What the scrub's read does besides reading. */
let inScrub: () => void;
const words = new Uint32Array(4);
const readWhole = () => reader.readWhole(0, digest, words, 0);
const serve = (): boolean => reader.tryRead(0, words, 0, Buffer.alloc(4096), 0);
const mark = (): boolean => isVerified(Atomics.load(arrays.states, 0));

beforeEach(() => {
  const memory = allocateSlotMemory({ blockBytes: BLOCK, capacity: 2, seed: 3 });
  arrays = slotArrays(memory);
  file = new CachedMedium();
  inScrub = () => undefined;
  reader = new SlotReader(memory, file as unknown as RandomFile, { readNowait: file.readNowait });
  // Its reads go through the page cache here: the worst that a file system may make of O_DIRECT.
  scrubber = new SlotScrubber(memory, (target) => {
    inScrub();
    target.set(file.bringIn());
  });
  putDigestWords(digest, words, 0);
  putDigestWords(digest, arrays.records, 0);
  arrays.records[FLAGS_WORD] = SLOT_USED;
  new SlotIndex(arrays).insert(0);
});

describe('what it finds', () => {
  it('says good, damaged, unreadable and free, and holds nothing afterwards', () => {
    expect(scrubber.check(0)).toBe('good');
    [file.medium, file.inMemory] = [bad, undefined];
    expect(scrubber.check(0)).toBe('damaged');
    expect([...scrubber.expected]).toEqual([...words]);
    inScrub = () => {
      throw new Error('EIO');
    };
    expect(scrubber.check(0)).toBe('unreadable');
    for (const flags of [0, SLOT_TAKEN, SLOT_QUEUED, SLOT_USED | SLOT_TAKEN]) {
      arrays.records[FLAGS_WORD] = flags;
      expect(scrubber.check(0)).toBe('free');
    }
    expect(scrubber.check(1)).toBe('free');
    expect(isHeld(arrays.readers, 0)).toBe(false);
  });

  it('says gone when the slot got other content under its read, whatever the bytes are', () => {
    inScrub = () => {
      invalidate(arrays.states, 0);
      [file.medium, file.inMemory] = [bad, undefined];
    };
    expect(scrubber.check(0)).toBe('gone');
  });

  it('holds the slot while it reads, so that the writer does not give it away', () => {
    let wasHeld = false;
    inScrub = () => (wasHeld = isHeld(arrays.readers, 0));
    scrubber.check(0);
    expect(wasHeld).toBe(true);
    while (holdSlot(arrays.readers, 0));
    expect(scrubber.check(0)).toBe('free'); // too many readers: another time
  });
});

describe('beside the reader', () => {
  it('leaves the mark of a good slot, so that its readers notice nothing', async () => {
    await readWhole();
    expect(scrubber.check(0)).toBe('good');
    expect(mark()).toBe(true);
    expect(serve()).toBe(true);
  });

  it('what its read brings into memory is not served, even under the mark', async () => {
    await readWhole();
    [file.medium, file.inMemory] = [bad, undefined];
    expect(scrubber.check(0)).toBe('damaged');
    expect(file.inMemory).toEqual(bad);
    expect(mark()).toBe(true);
    expect(serve()).toBe(false);
    expect(reader.counters).toMatchObject({ refused: 0, mismatched: 1 });
    expect(await readWhole()).toBe('damaged');
  });

  it('a read of the reader that was refused meanwhile, which moves the sequence, makes no verdict of damage', async () => {
    await readWhole();
    inScrub = () => {
      file.inMemory = undefined;
      expect(serve()).toBe(false);
    };
    expect(scrubber.check(0)).toBe('gone');
  });
});
