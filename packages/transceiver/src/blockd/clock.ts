/** Time as the block path sees it, so that tests can pass it in. */
import { setTimeout as sleepFor } from 'node:timers/promises';

export interface Clock {
  /** Monotonic milliseconds of this thread. */
  nowMs(): number;
  /** Resolves after so long; rejects with the signal's reason when it aborts before. */
  sleep(durationMs: number, signal?: AbortSignal): Promise<void>;
  /** Calls back once after so long, unless the function that comes back is called before. Keeps no process alive. */
  after(durationMs: number, callback: () => void): () => void;
}

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  sleep: async (durationMs, signal) => {
    try {
      await sleepFor(durationMs, undefined, signal === undefined ? {} : { signal });
    } catch (error) {
      throw signal?.aborted === true ? signal.reason : error;
    }
  },
  after: (durationMs, callback) => {
    const timer = setTimeout(callback, durationMs).unref();
    return () => clearTimeout(timer);
  },
};
