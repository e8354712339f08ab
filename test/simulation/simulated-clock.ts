/**
 * A clock whose time jumps to the next thing that is to happen. Between two things everything that can run runs (one turn of
 * the event loop), so that a history of minutes takes milliseconds and is the same each time.
 */
import type { Clock } from '@collective/transceiver';

type Event = { readonly atMs: number; readonly order: number; callback: (() => void) | undefined };

export class SimulatedClock implements Clock {
  /** A heap by time, then by order of making. */
  readonly #events: Event[] = [];
  #nowMs = 0;
  #made = 0;
  /** Things that have happened. */
  happened = 0;

  nowMs(): number {
    return this.#nowMs;
  }

  after(durationMs: number, callback: () => void): () => void {
    const event: Event = { atMs: this.#nowMs + Math.max(0, Math.ceil(durationMs)), order: (this.#made += 1), callback };
    this.#push(event);
    return () => (event.callback = undefined);
  }

  sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        cancel();
        reject(signal?.reason instanceof Error ? signal.reason : new Error('aborted'));
      };
      const cancel = this.after(durationMs, () => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      });
      if (signal?.aborted === true) onAbort();
      else signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  /** Lets time pass until the work has ended. A hang fails with what `step` says, at `untilMs` at the latest. */
  async run<T>(work: Promise<T>, untilMs: number, step: () => string): Promise<T> {
    let isOver = false;
    const over = (): void => void (isOver = true);
    work.then(over, over);
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      if (isOver) return await work;
      const event = this.#pop();
      if (event === undefined) throw new Error(`nothing is left to happen at ${Math.round(this.#nowMs)} ms: ${step()}`);
      if (event.atMs > untilMs) throw new Error(`not over after ${untilMs} ms of simulated time: ${step()}`);
      this.#nowMs = event.atMs;
      this.happened += 1;
      event.callback?.();
    }
  }

  #push(event: Event): void {
    const heap = this.#events;
    let at = heap.length;
    while (at > 0) {
      const parentAt = (at - 1) >> 1;
      const parent = heap[parentAt];
      if (parent === undefined || !isBefore(event, parent)) break;
      heap[at] = parent;
      at = parentAt;
    }
    heap[at] = event;
  }

  /** The next that was not cancelled. */
  #pop(): Event | undefined {
    for (;;) {
      const heap = this.#events;
      const first = heap[0];
      const last = heap.pop();
      if (first === undefined || last === undefined) return undefined;
      if (heap.length > 0) {
        let at = 0;
        for (;;) {
          const left = heap[2 * at + 1];
          const right = heap[2 * at + 2];
          if (left === undefined) break;
          const isRight = right !== undefined && isBefore(right, left);
          const child = isRight ? right : left;
          if (!isBefore(child, last)) break;
          heap[at] = child;
          at = 2 * at + (isRight ? 2 : 1);
        }
        heap[at] = last;
      }
      if (first.callback !== undefined) return first;
    }
  }
}

const isBefore = (a: Event, b: Event): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);

/** The clock of one process: when the process dies, nothing of it happens any more. */
export class ProcessClock implements Clock {
  readonly #clock: SimulatedClock;
  isDead = false;

  constructor(clock: SimulatedClock) {
    this.#clock = clock;
  }

  nowMs(): number {
    return this.#clock.nowMs();
  }

  after(durationMs: number, callback: () => void): () => void {
    return this.#clock.after(durationMs, () => {
      if (!this.isDead) callback();
    });
  }

  sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#clock.sleep(durationMs, signal).then(
        () => {
          if (!this.isDead) resolve();
        },
        (error: unknown) => {
          if (!this.isDead) reject(error instanceof Error ? error : new Error(String(error)));
        },
      );
    });
  }
}
