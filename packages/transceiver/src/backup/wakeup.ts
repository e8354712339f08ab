/** Wakes the loop of a backup, and tells those who wait for it how it ended. */
import type { BackupClock, SettledAs } from './backup-types.js';

type Waiting = {
  readonly resolve: (as: SettledAs) => void;
  /** What it waits for is saved, whatever came after it. */
  readonly isSaved: () => Promise<boolean>;
};

export class Wakeup {
  #count = 0;
  #sleepers: (() => void)[] = [];
  #waiting: Waiting[] = [];

  /** Goes up with each `wake`: whoever read it before does not sleep through one. */
  get count(): number {
    return this.#count;
  }

  wake(): void {
    this.#count += 1;
    for (const wake of this.#sleepers.splice(0)) wake();
  }

  /** Until `wake`, or until the time is over; not at all when it was woken since `count` was read. Resolves at abort, too. */
  async wait(count: number, ms: number | undefined, clock: BackupClock, signal: AbortSignal): Promise<void> {
    if (this.#count !== count || signal.aborted) return;
    const end = new AbortController();
    const stop = (): void => end.abort();
    signal.addEventListener('abort', stop, { once: true });
    this.#sleepers.push(stop);
    if (ms === undefined) await new Promise<void>((resolve) => end.signal.addEventListener('abort', () => resolve()));
    else await clock.sleep(ms, end.signal).catch(() => undefined);
    signal.removeEventListener('abort', stop);
    this.#sleepers = this.#sleepers.filter((sleeper) => sleeper !== stop);
  }

  settle(as: SettledAs): void {
    for (const { resolve } of this.#waiting.splice(0)) resolve(as);
  }

  /** Those whose own snapshot is saved need not wait for what others have asked for meanwhile. */
  async settleSaved(): Promise<void> {
    for (const waiting of [...this.#waiting]) {
      if (!(await waiting.isSaved().catch(() => false))) continue;
      this.#waiting = this.#waiting.filter((one) => one !== waiting);
      waiting.resolve('saved');
    }
  }

  /** The next `settle`, or `isSaved` at a `settleSaved`. Abort rejects with the signal's reason. */
  async settled(signal: AbortSignal, isSaved: () => Promise<boolean> = async () => false): Promise<SettledAs> {
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const abort = (): void => reject(signal.reason as Error);
      signal.addEventListener('abort', abort, { once: true });
      const end = (as: SettledAs): void => {
        signal.removeEventListener('abort', abort);
        resolve(as);
      };
      this.#waiting.push({ resolve: end, isSaved });
    });
  }
}
