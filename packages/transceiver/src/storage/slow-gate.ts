/**
 * Decides whether synchronous file calls are safe, by what the last ones cost.
 *
 * A synchronous read may have to go to the medium, and a synchronous write may sleep in the kernel's throttling of dirty
 * pages; neither says so beforehand. When a call took longer than `slowCallMs` the gate closes for `closedMs`, during
 * which callers take the thread pool; then one call tries again.
 */
export class SlowGate {
  readonly #slowCallMs: number;
  readonly #closedMs: number;
  #closedUntilMs = 0;

  constructor(options: { readonly slowCallMs: number; readonly closedMs: number }) {
    this.#slowCallMs = options.slowCallMs;
    this.#closedMs = options.closedMs;
  }

  isOpen(nowMs: number): boolean {
    return nowMs >= this.#closedUntilMs;
  }

  /** Records a call that began and ended at these times of one monotonic clock. */
  record(beganMs: number, endedMs: number): void {
    if (endedMs - beganMs > this.#slowCallMs) this.#closedUntilMs = endedMs + this.#closedMs;
  }
}
