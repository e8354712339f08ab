import { describe, expect, it } from 'vitest';
import { Placement } from './placement.js';

const open = (capacity: number) => {
  const taken = new Set<number>();
  const placement = new Placement({ blockBytes: 65_536, capacity, isFree: (slot) => !taken.has(slot) });
  const take = (neighbourhood: number): number | undefined => {
    const slot = placement.take(neighbourhood);
    if (slot !== undefined) {
      expect(taken.has(slot)).toBe(false);
      taken.add(slot);
    }
    return slot;
  };
  const release = (slot: number): void => {
    taken.delete(slot);
    placement.release(slot);
  };
  return { placement, take, release, taken };
};

describe('placement', () => {
  it('gives blocks of one neighbourhood neighbouring slots although two are filled in turn', () => {
    const { take } = open(1024);
    const a: (number | undefined)[] = [];
    const b: (number | undefined)[] = [];
    for (let step = 0; step < 16; step += 1) {
      a.push(take(1));
      b.push(take(2));
    }
    expect(a).toEqual(Array.from({ length: 16 }, (_, slot) => slot));
    expect(b).toEqual(Array.from({ length: 16 }, (_, slot) => 16 + slot));
  });

  it('uses every slot, also those that other neighbourhoods have reserved', () => {
    const { take } = open(100);
    const slots = new Set<number>();
    for (let step = 0; step < 100; step += 1) {
      const slot = take(step % 9);
      expect(slot, `step ${step}`).toBeDefined();
      slots.add(slot ?? -1);
    }
    expect(slots.size).toBe(100);
    expect(take(1)).toBeUndefined();
  });

  it('uses what was released before the file grows', () => {
    const { take, release } = open(1024);
    for (let step = 0; step < 64; step += 1) take(1);
    for (let slot = 16; slot < 32; slot += 1) release(slot);
    const again = Array.from({ length: 16 }, () => take(7));
    expect(again).toEqual(Array.from({ length: 16 }, (_, at) => 16 + at));
    expect(take(7)).toBe(64);
  });

  it('finds the holes of a file that it takes over', () => {
    const taken = new Set([0, 1, 2, 17, 18]);
    const placement = new Placement({ blockBytes: 65_536, capacity: 64, isFree: (slot) => !taken.has(slot) });
    placement.load(20);
    const found = new Set<number>();
    for (let step = 0; step < 59; step += 1) {
      const slot = placement.take(5);
      expect(slot).toBeDefined();
      taken.add(slot ?? -1);
      found.add(slot ?? -1);
    }
    expect(found.size).toBe(59);
    expect(placement.take(5)).toBeUndefined();
  });

  it('survives any order of taking and releasing', () => {
    const { take, release, taken } = open(200);
    let random = 7;
    const next = (below: number): number => (random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0) % below;
    for (let step = 0; step < 20_000; step += 1) {
      if (next(2) === 0 || taken.size === 0) {
        const slot = take(next(80));
        if (taken.size < 200) expect(slot, `step ${step}`).toBeDefined();
      } else {
        const slots = [...taken];
        release(slots[next(slots.length)] ?? 0);
      }
    }
  });
});
