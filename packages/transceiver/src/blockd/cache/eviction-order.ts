/**
 * Which slot goes next: S3-FIFO over linked slots, so that a scan cannot ruin the cache.
 *
 * What is new enters a small queue. When room is needed and the small queue holds more than a tenth of the slots, its
 * oldest goes, unless it was touched in a later epoch: then it moves to the main queue. The main queue's oldest goes
 * round again as long as it has touches to spend. A digest that left the small queue lately and comes back enters
 * the main queue at once (ghosts: 16 bits of each digest in a direct-mapped table). So a scan, however long, passes through
 * the small queue and leaves the main one alone.
 *
 * Pinned slots are in no queue. A slot that was dropped (damaged content) stays in its queue until it comes up there.
 */
import type { SlotArrays } from './slot-arrays.js';
import { RECORD_WORDS } from './slot-arrays.js';
import { FLAGS_WORD, SLOT_MAIN, SLOT_PINNED, SLOT_QUEUED, SLOT_USED } from './slot-table.js';
import { frequencyOf, lowerFrequency } from './touches.js';

export type EvictionQueue = 'small' | 'main';

/** The small queue is relieved first while it holds more than this part of all queued slots. */
const SMALL_PART = 0.1;

type Queue = { head: number; tail: number; count: number };

export type Candidate = {
  readonly queue: EvictionQueue;
  readonly frequency: number;
  readonly isUsed: boolean;
  readonly isPinned: boolean;
  readonly isHeld: boolean;
};

/** What becomes of the slot at the head of a queue. */
export type Verdict = 'evict' | 'to-main' | 'again' | 'leave-queue';

/** The rule, as a function of what is known of the slot. `again` spends a touch when there is one. */
export const judge = (candidate: Candidate): Verdict => {
  if (!candidate.isUsed || candidate.isPinned) return 'leave-queue';
  if (candidate.isHeld) return 'again';
  if (candidate.frequency === 0) return 'evict';
  return candidate.queue === 'small' ? 'to-main' : 'again';
};

/** Which queue has to give. */
export const queueToRelieve = (counts: { readonly small: number; readonly main: number }): EvictionQueue =>
  counts.main === 0 || (counts.small > 0 && counts.small > (counts.small + counts.main) * SMALL_PART)
    ? 'small'
    : 'main';

export class EvictionOrder {
  readonly #arrays: SlotArrays;
  /** The slot behind each queued slot, + 1; 0 at the end. */
  readonly #next: Uint32Array;
  readonly #ghosts: Uint16Array;
  readonly #queues: Record<EvictionQueue, Queue> = {
    small: { head: 0, tail: 0, count: 0 },
    main: { head: 0, tail: 0, count: 0 },
  };

  constructor(arrays: SlotArrays) {
    this.#arrays = arrays;
    this.#next = new Uint32Array(arrays.capacity);
    this.#ghosts = new Uint16Array(arrays.capacity);
  }

  get memoryBytes(): number {
    return this.#next.byteLength + this.#ghosts.byteLength;
  }

  get counts(): { readonly small: number; readonly main: number } {
    return { small: this.#queues.small.count, main: this.#queues.main.count };
  }

  isQueued(slot: number): boolean {
    return (this.#flags(slot) & SLOT_QUEUED) !== 0;
  }

  /** A slot that was just filled: which queue it belongs to, by what is remembered of its digest. */
  queueFor(slot: number): EvictionQueue {
    return this.#ghosts[this.#ghostPlace(slot)] === this.#ghostMark(slot) ? 'main' : 'small';
  }

  insert(slot: number, name: EvictionQueue): void {
    const queue = this.#queues[name];
    this.#next[slot] = 0;
    if (queue.tail === 0) queue.head = slot + 1;
    else this.#next[queue.tail - 1] = slot + 1;
    queue.tail = slot + 1;
    queue.count += 1;
    const flags = this.#flags(slot) | SLOT_QUEUED;
    this.#setFlags(slot, name === 'main' ? flags | SLOT_MAIN : flags & ~SLOT_MAIN);
  }

  /** Puts all used slots that are not pinned into their queues, in the order of the file: at opening, queues still empty. */
  load(slotCount: number): void {
    const { records } = this.#arrays;
    const next = this.#next;
    const tails = [0, 0];
    const heads = [0, 0];
    const counts = [0, 0];
    for (let slot = 0, at = FLAGS_WORD; slot < slotCount; slot += 1, at += RECORD_WORDS) {
      const flags = records[at] ?? 0;
      if ((flags & (SLOT_USED | SLOT_PINNED)) !== SLOT_USED) continue;
      records[at] = flags | SLOT_QUEUED;
      const queue = (flags & SLOT_MAIN) === 0 ? 0 : 1;
      const tail = tails[queue] ?? 0;
      if (tail === 0) heads[queue] = slot + 1;
      else next[tail - 1] = slot + 1;
      tails[queue] = slot + 1;
      counts[queue] = (counts[queue] ?? 0) + 1;
    }
    this.#queues.small = { head: heads[0] ?? 0, tail: tails[0] ?? 0, count: counts[0] ?? 0 };
    this.#queues.main = { head: heads[1] ?? 0, tail: tails[1] ?? 0, count: counts[1] ?? 0 };
  }

  /**
   * The next slot to give up, out of its queue already; undefined when none can be. `onLeft` hears of slots that left
   * their queue because they had been dropped.
   */
  takeVictim(options: {
    readonly isHeld: (slot: number) => boolean;
    readonly onLeft: (slot: number) => void;
  }): number | undefined {
    // Each slot goes round at most once for each touch that it can have, and once more while it is held.
    const stepsMax = (this.#queues.small.count + this.#queues.main.count) * 5;
    for (let step = 0; step < stepsMax; step += 1) {
      const name = queueToRelieve(this.counts);
      const slot = this.#pop(name);
      if (slot === undefined) return undefined;
      const flags = this.#flags(slot);
      const verdict = judge({
        queue: name,
        frequency: frequencyOf(this.#arrays.touches[slot] ?? 0),
        isUsed: (flags & SLOT_USED) !== 0,
        isPinned: (flags & SLOT_PINNED) !== 0,
        isHeld: options.isHeld(slot),
      });
      switch (verdict) {
        case 'evict':
          if (name === 'small') this.#ghosts[this.#ghostPlace(slot)] = this.#ghostMark(slot);
          return slot;
        case 'to-main':
          lowerFrequency(this.#arrays.touches, slot);
          this.insert(slot, 'main');
          break;
        case 'again':
          lowerFrequency(this.#arrays.touches, slot);
          this.insert(slot, name);
          break;
        case 'leave-queue':
          if ((flags & SLOT_USED) === 0) options.onLeft(slot);
          break;
        default:
          verdict satisfies never;
      }
    }
    return undefined;
  }

  #pop(name: EvictionQueue): number | undefined {
    const queue = this.#queues[name];
    if (queue.head === 0) return undefined;
    const slot = queue.head - 1;
    queue.head = this.#next[slot] ?? 0;
    if (queue.head === 0) queue.tail = 0;
    queue.count -= 1;
    this.#setFlags(slot, this.#flags(slot) & ~SLOT_QUEUED);
    return slot;
  }

  #flags(slot: number): number {
    return this.#arrays.records[slot * RECORD_WORDS + FLAGS_WORD] ?? 0;
  }

  #setFlags(slot: number, flags: number): void {
    this.#arrays.records[slot * RECORD_WORDS + FLAGS_WORD] = flags;
  }

  // Words 2 and 3 of the digest: the index uses 0 and 1.
  #ghostPlace(slot: number): number {
    const word = this.#arrays.records[slot * RECORD_WORDS + 2] ?? 0;
    return Math.floor(word * (this.#ghosts.length / 0x1_0000_0000));
  }

  #ghostMark(slot: number): number {
    return (this.#arrays.records[slot * RECORD_WORDS + 3] ?? 0) & 0xffff || 1;
  }
}
