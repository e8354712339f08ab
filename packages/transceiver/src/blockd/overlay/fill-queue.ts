/**
 * Completes partly held granules in the background, a few at a time. A fill that fails is tried again after a pause: the rest
 * of a granule may lie in a repository that is away, and nobody waits for it.
 */
import { OVERLAY_LIMITS } from './geometry.js';
import type { SectorMap } from './sector-map.js';

export type FillQueueOptions = {
  readonly map: SectorMap;
  /** Makes one granule whole. */
  readonly fill: (granule: number, signal: AbortSignal) => Promise<void>;
};

export class FillQueue {
  readonly #options: FillQueueOptions;
  readonly #queued = new Set<number>();
  readonly #running = new Map<number, Promise<void>>();
  readonly #abort = new AbortController();
  /** More granules are partial than are queued. */
  #hasForgotten = false;
  #retryTimer: NodeJS.Timeout | undefined;

  constructor(options: FillQueueOptions) {
    this.#options = options;
  }

  add(granule: number): void {
    if (this.#running.has(granule)) return;
    if (this.#queued.size >= OVERLAY_LIMITS.queuedFillsMax) this.#hasForgotten = true;
    else this.#queued.add(granule);
    this.#start();
  }

  /** Queues what the map holds in part. */
  findPartial(): void {
    const { map } = this.#options;
    this.#hasForgotten = false;
    for (
      let granule = map.nextPartial(0, map.granuleCount);
      granule >= 0;
      granule = map.nextPartial(granule + 1, map.granuleCount)
    ) {
      if (this.#queued.size >= OVERLAY_LIMITS.queuedFillsMax) {
        this.#hasForgotten = true;
        break;
      }
      this.#queued.add(granule);
    }
    this.#start();
  }

  /** Aborts what runs and resolves when nothing does. */
  async close(): Promise<void> {
    clearTimeout(this.#retryTimer);
    this.#abort.abort();
    await Promise.all(this.#running.values());
  }

  #start(): void {
    if (this.#retryTimer !== undefined || this.#abort.signal.aborted) return;
    for (const granule of this.#queued) {
      if (this.#running.size >= OVERLAY_LIMITS.fillsMax) return;
      this.#queued.delete(granule);
      this.#running.set(granule, this.#run(granule));
    }
  }

  async #run(granule: number): Promise<void> {
    try {
      await this.#options.fill(granule, this.#abort.signal);
    } catch {
      // Whoever reads the granule is told; here it is only put off.
      this.#queued.add(granule);
      this.#pause();
    }
    this.#running.delete(granule);
    if (this.#queued.size === 0 && this.#hasForgotten) this.findPartial();
    else this.#start();
  }

  #pause(): void {
    if (this.#retryTimer !== undefined || this.#abort.signal.aborted) return;
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined;
      this.#start();
    }, OVERLAY_LIMITS.fillRetryMs);
    this.#retryTimer.unref();
  }
}
