/**
 * The time of the replayed day. It runs `factor` times as fast as ours while parts of an object are on the link, which has `factor` times
 * its rate; as fast as ours while anything else is under way, so that our own work costs what it costs; and it is moved to the next event
 * when nothing is (`jumpTo`).
 *
 * A machine that others share may keep all of the replay from running for seconds. Then time stands still: it never goes on by more than
 * `LATE_MS` of ours beyond the beat that should have come.
 */
import type { BackupClock } from '@collective/transceiver';

type Sleeper = { readonly untilMs: number; readonly wake: () => void };

const BEAT_MS = 10;
const LATE_MS = 150;

/** A morning: the server's certificates and tokens want a time of day. */
export const BEGIN_SECONDS = 1_800_000_000;

export class HybridClock implements BackupClock {
  readonly factor: number;
  #rate = 1;
  #atMs = 0;
  #realMs = performance.now();
  #sleepers: Sleeper[] = [];
  #timer: NodeJS.Timeout | undefined;
  #lastWakeRealMs = Number.NEGATIVE_INFINITY;
  readonly #beats: NodeJS.Timeout;
  #beatRealMs = performance.now();
  /** In ms of ours. */
  stoodStillMs = 0;

  constructor(factor: number) {
    this.factor = factor;
    this.#beats = setInterval(() => this.#beat(), BEAT_MS);
  }

  nowMs(): number {
    const realMs = Math.min(performance.now(), this.#beatRealMs + LATE_MS);
    return this.#atMs + Math.max(0, realMs - this.#realMs) * this.#rate;
  }

  get rate(): number {
    return this.#rate;
  }

  /** Whether the link is what is waited for. */
  setOnLink(isOnLink: boolean): void {
    this.#moveTo(this.nowMs());
    this.#rate = isOnLink ? this.factor : 1;
    this.#arm();
  }

  nowSeconds(): number {
    return BEGIN_SECONDS + Math.floor(this.nowMs() / 1_000);
  }

  /** When the next sleeper wakes. */
  get nextWakeMs(): number {
    return Math.min(Number.POSITIVE_INFINITY, ...this.#sleepers.map(({ untilMs }) => untilMs));
  }

  /** Since when, in ms of ours, nobody has been woken: what was woken may not have begun to show. */
  get sinceWakeRealMs(): number {
    return performance.now() - this.#lastWakeRealMs;
  }

  async sleep(ms: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const abort = (): void => {
        this.#sleepers = this.#sleepers.filter((one) => one !== sleeper);
        reject(signal.reason as Error);
      };
      const wake = (): void => {
        signal.removeEventListener('abort', abort);
        resolve();
      };
      const sleeper = { untilMs: this.nowMs() + ms, wake };
      signal.addEventListener('abort', abort, { once: true });
      this.#sleepers.push(sleeper);
      this.#arm();
    });
  }

  jumpTo(ms: number): void {
    if (ms <= this.nowMs()) return;
    this.#moveTo(ms);
    this.#wakeDue();
  }

  close(): void {
    clearTimeout(this.#timer);
    clearInterval(this.#beats);
  }

  #beat(): void {
    const realMs = performance.now();
    const lateMs = realMs - this.#beatRealMs - LATE_MS;
    if (lateMs > 0) {
      const nowMs = this.nowMs();
      this.stoodStillMs += lateMs;
      this.#beatRealMs = realMs;
      this.#moveTo(nowMs);
    }
    this.#beatRealMs = realMs;
  }

  #moveTo(ms: number): void {
    this.#atMs = ms;
    this.#realMs = Math.min(performance.now(), this.#beatRealMs + LATE_MS);
  }

  #wakeDue(): void {
    // A timer of Node's fires up to a millisecond early.
    const nowMs = this.nowMs() + this.#rate;
    const due = this.#sleepers.filter(({ untilMs }) => untilMs <= nowMs);
    this.#sleepers = this.#sleepers.filter(({ untilMs }) => untilMs > nowMs);
    if (due.length > 0) this.#lastWakeRealMs = performance.now();
    for (const { wake } of due) wake();
    this.#arm();
  }

  #arm(): void {
    clearTimeout(this.#timer);
    if (this.#sleepers.length === 0) return;
    const realMs = (this.nextWakeMs - this.nowMs()) / this.#rate;
    this.#timer = setTimeout(() => this.#wakeDue(), Math.max(0, Math.min(realMs, 2 ** 31 - 1)));
  }
}
