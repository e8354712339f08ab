/**
 * What seals cost, for the status: how long each took, and how long writes waited while one was under way.
 *
 * A write that is done at once may have lain in its socket since the event loop looked there the time before: so long it is taken to have
 * waited, and a turn that a seal makes long counts fully. One that waits (for the thread pool, for a range) counts from its beginning to its
 * end as far as the seal lasted, whatever it waited for. Both are upper bounds. While no seal is under way a write costs one look at a field.
 */
import { DurationHistogram, type DurationCounts } from '../duration-histogram.js';

export type SealStatus = {
  readonly sealMs: DurationCounts;
  readonly writeWaitMs: DurationCounts;
};

/** So much, twice, a write may be said to have waited that did not wait at all. */
const LOOK_MS = 1;

export class SealTimes {
  readonly #seals = new DurationHistogram();
  readonly #waits = new DurationHistogram();
  #beganMs = 0;
  #endedMs = 0;
  /** When the event loop went to look at the sockets, the last time and the time before. */
  #lookedMs = 0;
  #lookedBeforeMs = 0;
  #looking: NodeJS.Timeout | undefined;

  get isUnderWay(): boolean {
    return this.#looking !== undefined;
  }

  get status(): SealStatus {
    return { sealMs: this.#seals.counts, writeWaitMs: this.#waits.counts };
  }

  /** Seals come one after the other. */
  async during<T>(seal: () => Promise<T>): Promise<T> {
    this.#beganMs = performance.now();
    this.#lookedMs = this.#beganMs;
    this.#look();
    try {
      return await seal();
    } finally {
      clearTimeout(this.#looking);
      this.#looking = undefined;
      this.#endedMs = performance.now();
      this.#seals.add(this.#endedMs - this.#beganMs);
    }
  }

  /** A write was done at once. Only while a seal is under way. */
  noteWrite(): void {
    this.#waits.add(performance.now() - Math.max(this.#beganMs, this.#lookedBeforeMs));
  }

  /** A write that waited has ended. */
  noteWaited(startedMs: number): void {
    const nowMs = performance.now();
    const endedMs = this.isUnderWay ? nowMs : this.#endedMs;
    const waitedMs = endedMs - Math.max(this.#beganMs, startedMs);
    if (waitedMs > 0) this.#waits.add(waitedMs);
  }

  /** Each millisecond, and late by as much as a turn of the loop is long; only while a seal lasts. */
  #look(): void {
    this.#lookedBeforeMs = this.#lookedMs;
    this.#lookedMs = performance.now();
    this.#looking = setTimeout(() => this.#look(), LOOK_MS);
  }
}
