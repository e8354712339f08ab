/**
 * When an upload may use the line, and how much of it at a time. The line belongs to reads that a machine waits for: while
 * there are some the gate is closed, and only one part in two seconds goes; and a part is never longer than a tenth of a
 * second of the measured line. Whether there are some is looked at before a part, so that nobody asks while nothing is sent.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { SNAPSHOT_PART_BYTES_MAX } from '@collective/shared';

export const PART_BYTES_MIN = 65_536;
const PART_MS = 100;
/** How much the newest part counts. */
const WEIGHT = 0.3;

/** Whether a machine waits for the line is looked at so often at most. */
export const GATE_LOOK_MS = 500;
/** So long a part is kept back at most: an upload goes on, slowly, whatever else there is. */
export const GATE_WAIT_MS_MAX = 2_000;

export type UploadGateOptions = {
  /** Whether a machine waits for the line now: closes and opens the gate. Absent: only `close` and `open` do. What fails says no. */
  readonly look?: () => Promise<boolean>;
  /** Of a clock that only goes forward. */
  readonly nowMs?: () => number;
  /** Abort rejects. */
  readonly sleep?: (ms: number, signal: AbortSignal) => Promise<unknown>;
};

export class UploadGate {
  readonly #look: UploadGateOptions['look'];
  readonly #nowMs: () => number;
  readonly #sleep: NonNullable<UploadGateOptions['sleep']>;
  readonly #waiting = new Set<() => void>();
  #isOpen = true;
  #lookedAtMs = -Infinity;
  #looking: Promise<void> | undefined;

  constructor({ look, nowMs, sleep }: UploadGateOptions = {}) {
    this.#look = look;
    this.#nowMs = nowMs ?? (() => performance.now());
    this.#sleep = sleep ?? (async (ms, signal) => delay(ms, undefined, { signal, ref: false }));
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  close(): void {
    this.#isOpen = false;
  }

  open(): void {
    this.#isOpen = true;
    for (const go of this.#waiting) go();
  }

  /** For one part. Resolves when it is open, at the latest after `GATE_WAIT_MS_MAX`. Abort rejects with the signal's reason. */
  async pass(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const giveUpAtMs = this.#nowMs() + GATE_WAIT_MS_MAX;
    await this.#lookAgain();
    while (!this.#isOpen && this.#nowMs() < giveUpAtMs) {
      await this.#opened(signal);
      signal.throwIfAborted();
      await this.#lookAgain();
    }
  }

  /** All uploads share what one of them has seen. */
  async #lookAgain(): Promise<void> {
    if (this.#look === undefined) return;
    if (this.#looking === undefined && this.#nowMs() - this.#lookedAtMs < GATE_LOOK_MS) return;
    this.#looking ??= this.#look()
      .catch(() => false)
      .then((isWanted) => {
        if (isWanted) this.close();
        else this.open();
      })
      .finally(() => {
        this.#lookedAtMs = this.#nowMs();
        this.#looking = undefined;
      });
    await this.#looking;
  }

  /** Resolves when it opens, when it is time to look again, or on abort. */
  async #opened(signal: AbortSignal): Promise<void> {
    const over = new AbortController();
    const opened = (): void => over.abort();
    this.#waiting.add(opened);
    try {
      await this.#sleep(GATE_LOOK_MS, AbortSignal.any([signal, over.signal])).catch(() => undefined);
    } finally {
      this.#waiting.delete(opened);
    }
  }
}

/** How fast parts go, as a moving mean. */
export class LineMeter {
  #bytesPerMs: number | undefined;

  /** Of the next part: 100 ms of the line, 64 KiB to 4 MiB; the first is small. */
  get partBytes(): number {
    if (this.#bytesPerMs === undefined) return PART_BYTES_MIN;
    const bytes = Math.floor((this.#bytesPerMs * PART_MS) / PART_BYTES_MIN) * PART_BYTES_MIN;
    return Math.min(SNAPSHOT_PART_BYTES_MAX, Math.max(PART_BYTES_MIN, bytes));
  }

  /** Undefined before the first part. */
  get bytesPerSecond(): number | undefined {
    return this.#bytesPerMs === undefined ? undefined : this.#bytesPerMs * 1_000;
  }

  sent(bytes: number, ms: number): void {
    const now = bytes / Math.max(1, ms);
    this.#bytesPerMs = this.#bytesPerMs === undefined ? now : this.#bytesPerMs * (1 - WEIGHT) + now * WEIGHT;
  }
}
