/**
 * When an upload may use the line, and how much of it at a time. The line belongs to reads that a machine waits for: while
 * there are some the gate is closed, and only one small part a second goes; and a part is never longer than a tenth of a
 * second of the measured line: a read's request waits behind it. Whether there are some is looked at before a part, so that nobody asks while nothing is sent.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { SNAPSHOT_PART_BYTES_MAX } from '@collective/shared';

export const PART_BYTES_MIN = 16_384;
const PART_MS = 100;
/** Beside a machine that waits for the line: so short that hardly a read meets one. */
const SMALL_PART_MS = 10;
const SMALL_PART_BYTES_MIN = 4_096;
/** How much the newest part counts. */
const WEIGHT = 0.3;

/** Whether a machine waits for the line is looked at so often at most. */
export const GATE_LOOK_MS = 500;
/** So long a part is kept back at most: an upload goes on, slowly, whatever else there is. */
export const GATE_WAIT_MS_MAX = 1_000;

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

  /** Of the next part: 100 ms of the line, 16 KiB to 4 MiB; the first is small. */
  get partBytes(): number {
    return this.#ofLine(PART_MS, PART_BYTES_MIN);
  }

  /** The same while the gate is closed: 10 ms of the line, 4 KiB at the least. */
  get smallPartBytes(): number {
    return this.#ofLine(SMALL_PART_MS, SMALL_PART_BYTES_MIN);
  }

  /** Undefined before the first part. */
  get bytesPerSecond(): number | undefined {
    return this.#bytesPerMs === undefined ? undefined : this.#bytesPerMs * 1_000;
  }

  /** What is shorter than the shortest usual part says more of the way than of the line, and does not count beside one that is not. */
  sent(bytes: number, ms: number): void {
    if (bytes < PART_BYTES_MIN && this.#bytesPerMs !== undefined) return;
    const now = bytes / Math.max(1, ms);
    this.#bytesPerMs = this.#bytesPerMs === undefined ? now : this.#bytesPerMs * (1 - WEIGHT) + now * WEIGHT;
  }

  #ofLine(ms: number, bytesMin: number): number {
    const bytes = Math.floor(((this.#bytesPerMs ?? 0) * ms) / bytesMin) * bytesMin;
    return Math.min(SNAPSHOT_PART_BYTES_MAX, Math.max(bytesMin, bytes));
  }
}
