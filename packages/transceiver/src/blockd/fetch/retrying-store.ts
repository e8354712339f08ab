/**
 * The one layer that tries again. Waits as planned (retry-plan.ts), shorter when the fetch is raised to a better class or
 * when somebody knows that it is worth a try now: the network is back, there is a new token.
 */
import { CollectiveError } from '@collective/shared';
import type { BlockRequest, BlockStore, GetOptions } from '../block-store.js';
import type { Clock } from '../clock.js';
import { planRetry } from './retry-plan.js';

export type RetryingStoreOptions = {
  readonly clock: Clock;
  readonly random?: () => number;
  /** Hears of each failed attempt that is followed by another. */
  readonly onFailure?: (failure: {
    readonly request: BlockRequest;
    readonly error: CollectiveError;
    readonly failures: number;
  }) => void;
};

export class RetryingStore implements BlockStore {
  readonly #next: BlockStore;
  readonly #options: RetryingStoreOptions;
  readonly #sleepers = new Set<() => void>();

  constructor(next: BlockStore, options: RetryingStoreOptions) {
    this.#next = next;
    this.#options = options;
  }

  async get(request: BlockRequest, options: GetOptions): Promise<Buffer> {
    for (let failures = 1; ; failures += 1) {
      try {
        return await this.#next.get(request, options);
      } catch (error) {
        options.signal?.throwIfAborted();
        if (!(error instanceof CollectiveError)) throw error; // a wrong program, not a wrong world
        const decision = planRetry({
          code: error.code,
          fetchClass: options.rank.fetchClass,
          failures,
          random: (this.#options.random ?? Math.random)(),
          ...(typeof error.data['retryAfterMs'] === 'number' ? { retryAfterMs: error.data['retryAfterMs'] } : {}),
        });
        if (decision.kind === 'give-up') throw error;
        this.#options.onFailure?.({ request, error, failures });
        if (decision.delayMs > 0) await this.#sleep(decision.delayMs, options);
      }
    }
  }

  /** Everything that waits for its next attempt makes it now. */
  retryNow(): void {
    for (const wake of [...this.#sleepers]) wake();
  }

  async #sleep(delayMs: number, options: GetOptions): Promise<void> {
    const woken = new AbortController();
    const wake = (): void => woken.abort();
    this.#sleepers.add(wake);
    const stopListening = options.rank.onRaise(wake);
    const signal = options.signal === undefined ? woken.signal : AbortSignal.any([woken.signal, options.signal]);
    try {
      await this.#options.clock.sleep(delayMs, signal);
    } catch (error) {
      options.signal?.throwIfAborted();
      if (!woken.signal.aborted) throw error;
    } finally {
      stopListening();
      this.#sleepers.delete(wake);
    }
  }
}
