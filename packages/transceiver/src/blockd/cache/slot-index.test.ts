import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { RECORD_WORDS, allocateSlotMemory, slotArrays, slotMemoryBytes } from './slot-arrays.js';
import { NO_SLOT, SlotIndex, homePosition, putDigestWords } from './slot-index.js';

const digestOf = (number: number): string => createHash('sha256').update(String(number)).digest('hex');

const open = (capacity: number) => {
  const arrays = slotArrays(allocateSlotMemory({ blockBytes: 65_536, capacity, seed: 12_345 }));
  const index = new SlotIndex(arrays);
  const words = new Uint32Array(4);
  const find = (number: number): number => {
    putDigestWords(digestOf(number), words, 0);
    return index.find(words, 0);
  };
  const insert = (slot: number, number: number): boolean => {
    putDigestWords(digestOf(number), arrays.records, slot * RECORD_WORDS);
    return index.insert(slot);
  };
  return { arrays, index, find, insert };
};

describe('slot index', () => {
  it('finds what was inserted and nothing else, through random insertions and removals', () => {
    const { index, find, insert } = open(64);
    const held = new Map<number, number>();
    let random = 1;
    const next = (below: number): number => (random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0) % below;
    for (let step = 0; step < 20_000; step += 1) {
      const slot = next(64);
      const before = held.get(slot);
      // No `expect` each time: 50,000 of them took longer than all the rest of this folder.
      let isRight: boolean;
      if (before === undefined) {
        isRight = insert(slot, 1000 + step);
        held.set(slot, 1000 + step);
      } else {
        isRight = index.remove(slot) && find(before) === NO_SLOT;
        held.delete(slot);
      }
      if (step % 50 === 0) for (const [at, number] of held) isRight &&= find(number) === at;
      if (!isRight) expect.fail(`wrong in step ${step}`);
    }
    expect(held.size).toBeGreaterThan(10);
  });

  it('works full to the last slot', () => {
    const { find, insert } = open(1000);
    for (let slot = 0; slot < 1000; slot += 1) expect(insert(slot, slot)).toBe(true);
    for (let slot = 0; slot < 1000; slot += 1) expect(find(slot)).toBe(slot);
    expect(find(5000)).toBe(NO_SLOT);
  });

  it('refuses a digest that it holds', () => {
    const { insert, find } = open(10);
    expect(insert(1, 7)).toBe(true);
    expect(insert(2, 7)).toBe(false);
    expect(find(7)).toBe(1);
  });

  it('finds the same for readers on the shared memory', () => {
    const memory = allocateSlotMemory({ blockBytes: 65_536, capacity: 8, seed: 1 });
    const writer = new SlotIndex(slotArrays(memory));
    const reader = new SlotIndex(slotArrays(memory));
    putDigestWords(digestOf(3), slotArrays(memory).records, 5 * RECORD_WORDS);
    writer.insert(5);
    const words = new Uint32Array(4);
    putDigestWords(digestOf(3), words, 0);
    expect(reader.find(words, 0)).toBe(5);
  });

  it('spreads over an index of any length', () => {
    const counts = new Uint32Array(10);
    for (let number = 0; number < 10_000; number += 1) {
      const bytes = Buffer.from(digestOf(number), 'hex');
      const position = homePosition(bytes.readUInt32LE(0), bytes.readUInt32LE(4), 99, 1_000_003);
      counts[Math.floor(position / 100_001)] = (counts[Math.floor(position / 100_001)] ?? 0) + 1;
    }
    for (const count of counts) expect(count).toBeGreaterThan(850);
  });

  it('takes 41 bytes a slot in shared memory', () => {
    expect(
      slotMemoryBytes(allocateSlotMemory({ blockBytes: 65_536, capacity: 1000, seed: 0 })) / 1000,
    ).toBeLessThanOrEqual(42);
  });
});
