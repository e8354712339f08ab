/**
 * Exclusive use of ranges (of granules, or of bytes) by operations that wait. First come, first served is not promised; no holder waits
 * for another lock while it holds one, so nothing can lock up.
 */
type Held = { readonly start: number; readonly end: number; readonly released: Promise<void> };

export class RangeLock {
  readonly #held: Held[] = [];

  /** Whether an operation holds a part of [start, end). */
  isHeld(start: number, end: number): boolean {
    return this.#held.length > 0 && this.#find(start, end) !== undefined;
  }

  /** Waits until nobody holds a part of [start, end), takes it, runs `work`, and gives it back. */
  async run<T>(start: number, end: number, work: () => Promise<T>): Promise<T> {
    for (let other = this.#find(start, end); other !== undefined; other = this.#find(start, end)) await other.released;
    let release = (): void => {};
    const held: Held = { start, end, released: new Promise((resolve) => (release = resolve)) };
    this.#held.push(held);
    try {
      return await work();
    } finally {
      this.#held.splice(this.#held.indexOf(held), 1);
      release();
    }
  }

  /** Resolves when all that holds a lock now has given it back; later ones do not count. */
  async allReleased(): Promise<void> {
    await Promise.all(this.#held.map((held) => held.released));
  }

  #find(start: number, end: number): Held | undefined {
    return this.#held.find((held) => held.start < end && start < held.end);
  }
}
