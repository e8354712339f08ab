/**
 * How long an export had at least one request unanswered: what its guest waited for the disk at the most. Overlapping
 * requests count once. Costs one clock reading at each end of a busy stretch, never one per request.
 */
export class BusyTime {
  #depth = 0;
  #sinceMs = 0;
  #totalMs = 0;

  begin(): void {
    if (this.#depth === 0) this.#sinceMs = performance.now();
    this.#depth += 1;
  }

  end(): void {
    this.#depth -= 1;
    if (this.#depth === 0) this.#totalMs += performance.now() - this.#sinceMs;
  }

  /** Milliseconds so far, a stretch that still lasts included. */
  get totalMs(): number {
    return this.#depth === 0 ? this.#totalMs : this.#totalMs + performance.now() - this.#sinceMs;
  }
}
