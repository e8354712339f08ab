/**
 * Decides whether synchronous file calls are safe, by what the last ones cost.
 *
 * A synchronous read may have to go to the medium, and a synchronous write may sleep in the kernel's throttling of dirty
 * pages; neither says so beforehand. One slow call proves nothing, because on a busy machine a call also takes long when
 * the thread lost its processor in it. But throttling comes every few dozen calls, and a lost processor every few hundred
 * (measured at load 14 on 2 processors: a gate that one slow call closed cost half the speed). So two slow calls within
 * `windowCalls` close the gate, and callers take the thread pool. After a while it opens on trial: one slow call within
 * the next window closes it again, for twice as long.
 */
export type SlowGateOptions = {
  /** A call that took longer is slow. */
  readonly slowCallMs: number;
  readonly windowCalls: number;
  /** For how long the gate is closed at first, and at most. */
  readonly closedMs: number;
  readonly closedMsMax: number;
};

export class SlowGate {
  readonly #options: SlowGateOptions;
  #closedUntilMs = 0;
  #nextClosedMs: number;
  /** Calls left in which one more slow one closes the gate. */
  #suspiciousCalls = 0;

  constructor(options: SlowGateOptions) {
    this.#options = options;
    this.#nextClosedMs = options.closedMs;
  }

  isOpen(nowMs: number): boolean {
    return nowMs >= this.#closedUntilMs;
  }

  /** Records a call that began and ended at these times of one monotonic clock. */
  record(beganMs: number, endedMs: number): void {
    const { slowCallMs, windowCalls, closedMs, closedMsMax } = this.#options;
    if (endedMs - beganMs <= slowCallMs) {
      if (this.#suspiciousCalls === 0) return;
      this.#suspiciousCalls -= 1;
      if (this.#suspiciousCalls === 0) this.#nextClosedMs = closedMs;
    } else if (this.#suspiciousCalls === 0) {
      this.#suspiciousCalls = windowCalls;
    } else {
      this.#suspiciousCalls = windowCalls;
      this.#closedUntilMs = endedMs + this.#nextClosedMs;
      this.#nextClosedMs = Math.min(closedMsMax, 2 * this.#nextClosedMs);
    }
  }
}
