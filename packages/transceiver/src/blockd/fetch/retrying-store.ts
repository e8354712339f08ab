/**
 * The one layer that tries again. Waits as planned (retry-plan.ts), shorter when the fetch is raised to a better class or
 * when somebody knows that it is worth a try now: the network is back, there is a new token, another block has come. One of the
 * demand reads that wait is the probe; when it leaves, another becomes it.
 */
import { CollectiveError } from '@collective/shared';
import type { BlockRequest, BlockStore, GetOptions } from '../block-store.js';
import type { Clock } from '../clock.js';
import { isAboutBlock, planRetry } from './retry-plan.js';

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

/** One call of `get`. */
type Fetch = { readonly request: BlockRequest; readonly options: GetOptions };

type Sleeper = {
  readonly wake: () => void;
  readonly isDemand: () => boolean;
  /** It waits for its block to be repaired, not for the line. */
  readonly isAboutBlock: boolean;
};

export class RetryingStore implements BlockStore {
  readonly #next: BlockStore;
  readonly #options: RetryingStoreOptions;
  readonly #sleepers = new Set<Sleeper>();
  /** The fetch that tries for all. */
  #probe: Fetch | undefined;
  /** The last attempt to end failed, and not for its block. */
  #isTroubled = false;

  constructor(next: BlockStore, options: RetryingStoreOptions) {
    this.#next = next;
    this.#options = options;
  }

  async get(request: BlockRequest, options: GetOptions): Promise<Buffer> {
    const fetch: Fetch = { request, options };
    try {
      const block = await this.#getPatiently(fetch);
      if (this.#isTroubled) this.#recover();
      return block;
    } finally {
      if (this.#probe === fetch) this.#passProbeOn();
    }
  }

  /** Everything that waits for its next attempt makes it now. */
  retryNow(): void {
    for (const { wake } of [...this.#sleepers]) wake();
  }

  async #getPatiently(fetch: Fetch): Promise<Buffer> {
    const { request, options } = fetch;
    const { clock, onFailure, random = Math.random } = this.#options;
    for (let failures = 1; ; failures += 1) {
      const beganMs = clock.nowMs();
      try {
        return await this.#next.get(request, options);
      } catch (error) {
        options.signal?.throwIfAborted();
        if (!(error instanceof CollectiveError)) throw error; // a wrong program, not a wrong world
        const aboutBlock = isAboutBlock(error.code);
        if (!aboutBlock) {
          this.#isTroubled = true;
          if (options.rank.fetchClass === 'demand') this.#probe ??= fetch;
        }
        const decision = planRetry({
          code: error.code,
          fetchClass: options.rank.fetchClass,
          failures,
          attemptMs: clock.nowMs() - beganMs,
          isProbe: this.#probe === fetch,
          random: random(),
          ...(typeof error.data['retryAfterMs'] === 'number' ? { retryAfterMs: error.data['retryAfterMs'] } : {}),
        });
        if (decision.kind === 'give-up') throw error;
        onFailure?.({ request, error, failures });
        if (decision.delayMs > 0) await this.#sleep(decision.delayMs, options, aboutBlock);
      }
    }
  }

  /** A block has come after all: who waits for the line need not wait any longer. */
  #recover(): void {
    this.#isTroubled = false;
    for (const sleeper of [...this.#sleepers]) if (!sleeper.isAboutBlock) sleeper.wake();
  }

  /** Wakes another read that waits; when it fails again, it is the probe. */
  #passProbeOn(): void {
    this.#probe = undefined;
    for (const sleeper of this.#sleepers) {
      if (sleeper.isAboutBlock || !sleeper.isDemand()) continue;
      sleeper.wake();
      return;
    }
  }

  async #sleep(delayMs: number, options: GetOptions, aboutBlock: boolean): Promise<void> {
    const woken = new AbortController();
    const wake = (): void => woken.abort();
    const sleeper = { wake, isDemand: () => options.rank.fetchClass === 'demand', isAboutBlock: aboutBlock };
    this.#sleepers.add(sleeper);
    const stopListening = options.rank.onRaise(wake);
    const signal = options.signal === undefined ? woken.signal : AbortSignal.any([woken.signal, options.signal]);
    try {
      await this.#options.clock.sleep(delayMs, signal);
    } catch (error) {
      options.signal?.throwIfAborted();
      if (!woken.signal.aborted) throw error;
    } finally {
      stopListening();
      this.#sleepers.delete(sleeper);
    }
  }
}
