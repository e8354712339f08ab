import { describe, expect, it } from 'vitest';
import { EvictionOrder, judge, queueToRelieve, type Candidate } from './eviction-order.js';
import { RECORD_WORDS, allocateSlotMemory, slotArrays } from './slot-arrays.js';
import { FLAGS_WORD, SLOT_PINNED, SLOT_USED } from './slot-table.js';
import { countTouch, freshTouch, frequencyOf } from './touches.js';

const CAPACITY = 100;

/** A cache of names, as SlotFile uses the order: enough to see what stays. */
const open = (capacity = CAPACITY) => {
  const arrays = slotArrays(allocateSlotMemory({ blockBytes: 4096, capacity, seed: 0 }));
  const order = new EvictionOrder(arrays);
  const slotOf = new Map<number, number>();
  const free = Array.from({ length: capacity }, (_, slot) => slot);
  const held = new Set<number>();
  let epoch = 1;
  const evict = (): number | undefined => {
    const slot = order.takeVictim({ isHeld: (candidate) => held.has(candidate), onLeft: (left) => free.push(left) });
    if (slot === undefined) return undefined;
    for (const [name, at] of slotOf) if (at === slot) slotOf.delete(name);
    arrays.records[slot * RECORD_WORDS + FLAGS_WORD] = 0;
    free.push(slot);
    return slot;
  };
  const use = (name: number): void => {
    const known = slotOf.get(name);
    if (known !== undefined) return countTouch(arrays.touches, known, epoch);
    if (free.length === 0) evict();
    const slot = free.pop();
    if (slot === undefined) throw new Error('nothing could be evicted');
    arrays.records.set([name, name, Math.imul(name, 0x9e3779b1) >>> 0, name, SLOT_USED], slot * RECORD_WORDS);
    arrays.touches[slot] = freshTouch(epoch);
    slotOf.set(name, slot);
    order.insert(slot, order.queueFor(slot));
  };
  const nextEpoch = (): void => void (epoch = (epoch + 1) & 63);
  return { arrays, order, use, evict, nextEpoch, slotOf, held, has: (name: number) => slotOf.has(name) };
};

describe('eviction order', () => {
  it('evicts what came first when nothing was used twice', () => {
    const cache = open();
    for (let name = 0; name < 150; name += 1) cache.use(name);
    expect(cache.has(0)).toBe(false);
    expect(cache.has(149)).toBe(true);
  });

  it('keeps what is used again, however long a scan passes by', () => {
    const cache = open();
    const hot = Array.from({ length: 60 }, (_, name) => name);
    for (const name of hot) cache.use(name);
    cache.nextEpoch();
    for (const name of hot) cache.use(name);
    for (let scanned = 0; scanned < 5000; scanned += 1) {
      if (scanned % 1000 === 0) cache.nextEpoch();
      cache.use(10_000 + scanned);
    }
    expect(hot.filter((name) => cache.has(name)).length).toBe(60);
  });

  it('counts sixteen reads of one block in one epoch as none beyond its filling', () => {
    const cache = open();
    cache.use(1);
    for (let read = 0; read < 16; read += 1) cache.use(1);
    expect(frequencyOf(cache.arrays.touches[cache.slotOf.get(1) ?? 0] ?? 0)).toBe(0);
    cache.nextEpoch();
    for (let read = 0; read < 16; read += 1) cache.use(1);
    expect(frequencyOf(cache.arrays.touches[cache.slotOf.get(1) ?? 0] ?? 0)).toBe(1);
  });

  it('takes a block that comes back soon after it was evicted into the main queue', () => {
    const cache = open();
    for (let name = 0; name < 101; name += 1) cache.use(name);
    expect(cache.has(0)).toBe(false);
    const before = cache.order.counts.main;
    cache.use(0);
    expect(cache.order.counts.main).toBe(before + 1);
  });

  it('never evicts what is pinned or held, and says so when there is nothing else', () => {
    const cache = open(4);
    for (let name = 0; name < 4; name += 1) cache.use(name);
    for (const name of [0, 1]) {
      const at = (cache.slotOf.get(name) ?? 0) * RECORD_WORDS + FLAGS_WORD;
      cache.arrays.records[at] = (cache.arrays.records[at] ?? 0) | SLOT_PINNED;
    }
    cache.held.add(cache.slotOf.get(2) ?? 0);
    expect(cache.evict()).toBeDefined();
    expect(cache.has(3)).toBe(false);
    expect(cache.evict()).toBeUndefined();
    expect([0, 1, 2].every((name) => cache.has(name))).toBe(true);
  });

  it('lets go of everything in the end when nobody uses it any more', () => {
    const cache = open();
    for (let round = 0; round < 5; round += 1) {
      cache.nextEpoch();
      for (let name = 0; name < CAPACITY; name += 1) cache.use(name);
    }
    for (let name = 0; name < CAPACITY; name += 1) expect(cache.evict()).toBeDefined();
    expect(cache.order.counts).toEqual({ small: 0, main: 0 });
  });

  it.each<[Partial<Candidate>, ReturnType<typeof judge>]>([
    [{}, 'evict'],
    [{ queue: 'main' }, 'evict'],
    [{ frequency: 1 }, 'to-main'],
    [{ frequency: 2, queue: 'main' }, 'again'],
    [{ isHeld: true }, 'again'],
    [{ isPinned: true, isHeld: true }, 'leave-queue'],
    [{ isUsed: false }, 'leave-queue'],
  ])('judges %o: %s', (candidate, verdict) => {
    expect(judge({ queue: 'small', frequency: 0, isUsed: true, isPinned: false, isHeld: false, ...candidate })).toBe(
      verdict,
    );
  });

  it('relieves the small queue only while it is more than a tenth', () => {
    expect(queueToRelieve({ small: 11, main: 89 })).toBe('small');
    expect(queueToRelieve({ small: 10, main: 90 })).toBe('main');
    expect(queueToRelieve({ small: 1, main: 0 })).toBe('small');
    expect(queueToRelieve({ small: 0, main: 1 })).toBe('main');
  });
});
