/** The clocks of the tests of the backup. */
import type { BackupClock } from '@collective/transceiver';

/** Time that a test moves, or that passes when somebody sleeps. */
export class LabClock implements BackupClock {
  seconds = 1_800_000_000;
  ms = 0;
  nowSeconds(): number {
    return this.seconds;
  }
  nowMs(): number {
    this.ms += 1;
    return this.ms;
  }
  async sleep(ms: number, aborted: AbortSignal): Promise<void> {
    this.ms += ms;
    await new Promise((resolve) => setImmediate(resolve));
    aborted.throwIfAborted();
  }
}

/** Time that only a test moves. */
export class ManualClock implements BackupClock {
  #ms = 0;
  #sleepers: { readonly untilMs: number; readonly wake: () => void }[] = [];

  nowSeconds(): number {
    return 1_800_000_000 + Math.floor(this.#ms / 1_000);
  }

  nowMs(): number {
    return this.#ms;
  }

  async sleep(ms: number, aborted: AbortSignal): Promise<void> {
    // As the machine's own clock does: one that is aborted already is told of it, and not waited for without end.
    aborted.throwIfAborted();
    const untilMs = this.#ms + ms;
    await new Promise<void>((resolve) => {
      this.#sleepers.push({ untilMs, wake: resolve });
      aborted.addEventListener('abort', () => resolve(), { once: true });
    });
    aborted.throwIfAborted();
  }

  advance(ms: number): void {
    this.#ms += ms;
    const due = this.#sleepers.filter(({ untilMs }) => untilMs <= this.#ms);
    this.#sleepers = this.#sleepers.filter(({ untilMs }) => untilMs > this.#ms);
    for (const { wake } of due) wake();
  }
}
