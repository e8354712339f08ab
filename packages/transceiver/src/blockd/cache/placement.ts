/**
 * Where in the file the next block goes: slots are handed out in runs of 1 MiB, one open run for each neighbourhood of a
 * disk, so that blocks which a guest reads one after the other lie one after the other. The number of open runs is
 * bounded; the oldest is closed for a new one, and what it has left is used before the file grows.
 */
export const RUN_BYTES = 1 << 20;
const OPEN_RUNS_MAX = 64;

export class Placement {
  readonly #runSlots: number;
  readonly #capacity: number;
  readonly #isFree: (slot: number) => boolean;
  /** Free slots of each run that the file has reached. */
  readonly #freeInRun: Uint16Array;
  readonly #isListed: Uint8Array;
  /** Runs with free slots that are not open, oldest first. */
  readonly #listed: number[] = [];
  #listedHead = 0;
  readonly #open = new Map<number, number>();
  #runCount = 0;

  /** `isFree` says of a slot whether it holds nothing and nobody has taken it. */
  constructor(options: {
    readonly blockBytes: number;
    readonly capacity: number;
    readonly isFree: (slot: number) => boolean;
  }) {
    this.#runSlots = Math.max(1, RUN_BYTES / options.blockBytes);
    this.#capacity = options.capacity;
    this.#isFree = options.isFree;
    const runs = Math.ceil(options.capacity / this.#runSlots);
    this.#freeInRun = new Uint16Array(runs);
    this.#isListed = new Uint8Array(runs);
  }

  /** Takes over a file whose first `slotCount` slots have been in use: lists what is free there. */
  load(slotCount: number): void {
    this.#runCount = Math.min(this.#freeInRun.length, Math.ceil(slotCount / this.#runSlots));
    for (let run = 0; run < this.#runCount; run += 1) {
      let free = 0;
      for (let slot = run * this.#runSlots; slot < this.#endOf(run); slot += 1) if (this.#isFree(slot)) free += 1;
      this.#freeInRun[run] = free;
      if (free > 0) this.#list(run);
    }
  }

  /** A free slot for a block of that neighbourhood; undefined when every slot is taken. The caller marks it as taken. */
  take(neighbourhood: number): number | undefined {
    const open = this.#open.get(neighbourhood);
    if (open !== undefined) {
      const slot = this.#takeFrom(open);
      if (slot !== undefined) return slot;
      this.#open.delete(neighbourhood);
    }
    const run = this.#nextRun();
    if (run === undefined) return undefined;
    if (this.#open.size >= OPEN_RUNS_MAX) this.#closeOldest();
    this.#open.set(neighbourhood, run);
    return this.#takeFrom(run);
  }

  /** The slot is free again (`isFree` says so already). */
  release(slot: number): void {
    const run = Math.floor(slot / this.#runSlots);
    this.#freeInRun[run] = (this.#freeInRun[run] ?? 0) + 1;
    this.#list(run);
  }

  #nextRun(): number | undefined {
    for (;;) {
      const listed = this.#unlist();
      if (listed === undefined) break;
      if ((this.#freeInRun[listed] ?? 0) > 0) return listed;
    }
    if (this.#runCount < this.#freeInRun.length) {
      const run = this.#runCount;
      this.#runCount += 1;
      this.#freeInRun[run] = this.#endOf(run) - run * this.#runSlots;
      return run;
    }
    // What is left is in the open runs of other neighbourhoods.
    while (this.#open.size > 0) {
      this.#closeOldest();
      const closed = this.#unlist();
      if (closed !== undefined) return closed;
    }
    return undefined;
  }

  #closeOldest(): void {
    for (const [neighbourhood, run] of this.#open) {
      this.#open.delete(neighbourhood);
      if ((this.#freeInRun[run] ?? 0) > 0) this.#list(run);
      return;
    }
  }

  #takeFrom(run: number): number | undefined {
    if ((this.#freeInRun[run] ?? 0) === 0) return undefined;
    for (let slot = run * this.#runSlots; slot < this.#endOf(run); slot += 1) {
      if (!this.#isFree(slot)) continue;
      this.#freeInRun[run] = (this.#freeInRun[run] ?? 0) - 1;
      return slot;
    }
    this.#freeInRun[run] = 0;
    return undefined;
  }

  #list(run: number): void {
    if (this.#isListed[run] === 1) return;
    this.#isListed[run] = 1;
    this.#listed.push(run);
  }

  #unlist(): number | undefined {
    const run = this.#listed[this.#listedHead];
    if (run === undefined) return undefined;
    this.#listedHead += 1;
    if (this.#listedHead > 1024 && this.#listedHead * 2 > this.#listed.length) {
      this.#listed.splice(0, this.#listedHead);
      this.#listedHead = 0;
    }
    this.#isListed[run] = 0;
    return run;
  }

  #endOf(run: number): number {
    return Math.min(this.#capacity, (run + 1) * this.#runSlots);
  }
}
