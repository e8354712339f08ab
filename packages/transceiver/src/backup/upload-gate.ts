/**
 * When an upload may use the line, and how much of it at a time. The line belongs to reads that a machine waits for: the
 * caller closes the gate while there are some, and a part is never longer than a tenth of a second of the measured line.
 */
import { SNAPSHOT_PART_BYTES_MAX } from '@collective/shared';

export const PART_BYTES_MIN = 65_536;
const PART_MS = 100;
/** How much the newest part counts. */
const WEIGHT = 0.3;

export class UploadGate {
  #waiting: (() => void)[] = [];
  #isOpen = true;

  get isOpen(): boolean {
    return this.#isOpen;
  }

  close(): void {
    this.#isOpen = false;
  }

  open(): void {
    this.#isOpen = true;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Resolves when it is open. Abort rejects with the signal's reason. */
  async pass(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#isOpen) return;
    await new Promise<void>((resolve, reject) => {
      const abort = (): void => {
        this.#waiting = this.#waiting.filter((one) => one !== go);
        reject(signal.reason as Error);
      };
      const go = (): void => {
        signal.removeEventListener('abort', abort);
        resolve();
      };
      signal.addEventListener('abort', abort, { once: true });
      this.#waiting.push(go);
    });
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
