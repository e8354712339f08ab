/** How long a machine works before it is saved by itself: a setting of each machine, which may change while it is waited for. */
import type { BackupFile } from './backup-file.js';
import type { BackupClock } from './backup-types.js';
import { Wakeup } from './wakeup.js';

export class BackupPeriod {
  readonly #file: BackupFile;
  readonly #clock: BackupClock;
  readonly #changed = new Wakeup();

  constructor(file: BackupFile, clock: BackupClock) {
    this.#file = file;
    this.#clock = clock;
  }

  /** Errors: `malformed` for one that is too short or too long, `local-io`. */
  async set(periodSeconds: number): Promise<void> {
    await this.#file.update((state) => ({ ...state, periodSeconds }));
    this.#changed.wake();
  }

  /** One period, counted from the call, also when it is changed meanwhile: one that has lasted longer than the new one is over. Resolves at abort, too. */
  async pass(signal: AbortSignal): Promise<void> {
    const beganMs = this.#clock.nowMs();
    while (!signal.aborted) {
      const changes = this.#changed.count;
      const leftMs = beganMs + this.#file.state.periodSeconds * 1_000 - this.#clock.nowMs();
      if (leftMs <= 0) return;
      await this.#changed.wait(changes, leftMs, this.#clock, signal);
    }
  }
}
