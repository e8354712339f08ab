/** A clock that stands still until the test moves it. */
import type { Clock } from '../clock.js';

type Sleeper = { readonly untilMs: number; readonly wake: () => void };

export class ManualClock implements Clock {
  #nowMs = 0;
  readonly #sleepers = new Set<Sleeper>();
  /** Durations that were slept, in the order of their beginning. */
  readonly slept: number[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  get sleeperCount(): number {
    return this.#sleepers.size;
  }

  sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
    this.slept.push(durationMs);
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#sleepers.delete(sleeper);
        reject(signal?.reason instanceof Error ? signal.reason : new Error('aborted'));
      };
      if (signal?.aborted === true) return onAbort();
      const sleeper: Sleeper = {
        untilMs: this.#nowMs + durationMs,
        wake: () => {
          signal?.removeEventListener('abort', onAbort);
          this.#sleepers.delete(sleeper);
          resolve();
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#sleepers.add(sleeper);
    });
  }

  after(durationMs: number, callback: () => void): () => void {
    const cancelled = new AbortController();
    this.sleep(durationMs, cancelled.signal).then(callback, () => undefined);
    return () => cancelled.abort();
  }

  /** Moves the time and wakes who has slept enough, in order. */
  advance(durationMs: number): void {
    this.#nowMs += durationMs;
    for (const sleeper of [...this.#sleepers].sort((a, b) => a.untilMs - b.untilMs)) {
      if (sleeper.untilMs <= this.#nowMs) sleeper.wake();
    }
  }
}
