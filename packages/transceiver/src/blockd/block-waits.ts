/**
 * The blocks of one disk that reads wait for, and the waiting rule (DESIGN §4): a read that lacks a block waits `waitMs`, then fails with
 * `block-unavailable`, so that QEMU pauses the machine instead of hanging in it. The fetch goes on with the class of a demand read; when the
 * block has come, `onArrived` says so and the machine can go on. Which blocks are missing and since when is in `list`.
 *
 * A block that many reads lack is fetched once. A fetch whose last reader has left is ended, unless a read of it was given up.
 */
import { setMaxListeners } from 'node:events';
import { CollectiveError, type Digest } from '@collective/shared';
import type { ReadOptions } from './block-device.js';
import type { Clock } from './clock.js';

export type BlockWaitsOptions = {
  /** For messages: `appliance@version/disk`. */
  readonly name: string;
  readonly waitMs: number;
  /** As in ImageDeviceOptions; 0: at once. */
  readonly graceMs: number;
  readonly clock: Clock;
  /** Begins to bring a block; it is borrowed read-only when it has come. Ends at the signal. */
  readonly fetch: (
    blockIndex: number,
    signal: AbortSignal,
  ) => { readonly digest: Digest; readonly block: Promise<Buffer> };
  /** A block for which a read failed has come, after so long. */
  readonly onArrived: (blockIndex: number, waitedMs: number) => void;
  /** A read fails, or after the grace will, for want of these blocks. */
  readonly onGivenUp: (blockIndexes: readonly number[]) => void;
};

/** A block that reads wait for. */
export type WaitingBlock = {
  readonly blockIndex: number;
  readonly digest: Digest;
  readonly waitedMs: number;
  /** A read of it was given up. */
  readonly isUnavailable: boolean;
};

/** The part of a read that lies in one block: of the target from `at`, of the block from `within`. */
export type MissingPiece = {
  readonly index: number;
  readonly at: number;
  readonly within: number;
  readonly byteLength: number;
};

type Wait = {
  readonly block: Promise<Buffer>;
  readonly abort: AbortController;
  readonly digest: Digest;
  readonly sinceMs: number;
  readers: number;
  isUnavailable: boolean;
  /** A read in the background was given up: the fetch goes on without a reader. */
  isKept: boolean;
};

/** When the fetch of a block for which a machine is paused has failed for good. */
const ASK_AGAIN_MS = 2_000;

export class BlockWaits {
  readonly #options: BlockWaitsOptions;
  readonly #clock: Clock;
  readonly #waits = new Map<number, Wait>();
  /** Reads that wait for a block: each begins its wait anew when called. */
  readonly #restarts = new Set<() => void>();
  #waitMs: number;
  #isClosed = false;

  constructor(options: BlockWaitsOptions) {
    this.#options = options;
    this.#clock = options.clock;
    this.#waitMs = options.waitMs;
  }

  has(blockIndex: number): boolean {
    return this.#waits.has(blockIndex);
  }

  /** Blocks that reads wait for, or waited for in vain, longest first. */
  get list(): WaitingBlock[] {
    const nowMs = this.#clock.nowMs();
    return [...this.#waits].map(([blockIndex, wait]) => ({
      blockIndex,
      digest: wait.digest,
      waitedMs: Math.round(nowMs - wait.sinceMs),
      isUnavailable: wait.isUnavailable,
    }));
  }

  /** From now on, for the reads that wait already too. */
  setWaitMs(waitMs: number): void {
    this.#waitMs = waitMs;
    for (const restart of this.#restarts) restart();
  }

  /**
   * Waits for all pieces together, `waitMs` at most. Nothing is written to `target` after this has settled. Errors: `block-unavailable`,
   * `shutting-down`, the signal's reason, those of a fetch that failed for good.
   */
  read(target: Buffer, missing: readonly MissingPiece[], options: ReadOptions): Promise<void> {
    const { signal, isBackground = false } = options;
    return new Promise<void>((resolve, reject) => {
      let isOver = false;
      let left = missing.length;
      const indexes = missing.map((piece) => piece.index);
      const waits = missing.map((piece) => ({ piece, wait: this.#waitFor(piece.index) }));
      const end = (settle: () => void): void => {
        if (isOver) return;
        isOver = true;
        this.#restarts.delete(restart);
        cancelDeadline();
        signal?.removeEventListener('abort', onAbort);
        for (const { piece, wait } of waits) this.#leave(piece.index, wait);
        settle();
      };
      const onAbort = (): void =>
        end(() => reject(signal?.reason instanceof Error ? signal.reason : new Error('aborted')));
      let cancelDeadline = (): void => undefined;
      if (signal !== undefined) setMaxListeners(0, signal); // one signal for all reads of a session
      signal?.addEventListener('abort', onAbort, { once: true });
      for (const { piece, wait } of waits) {
        wait.block.then(
          (block) => {
            if (isOver) return;
            block.copy(target, piece.at, piece.within, piece.within + piece.byteLength);
            left -= 1;
            if (left === 0) end(resolve);
          },
          (error: unknown) => end(() => reject(error instanceof Error ? error : new Error(String(error)))),
        );
      }
      let refusal: CollectiveError | undefined;
      const restart = (): void => {
        cancelDeadline();
        if (refusal !== undefined) {
          const error = refusal;
          const graceMs = Math.min(this.#options.graceMs, this.#waitMs);
          cancelDeadline = this.#clock.after(graceMs, () => end(() => reject(error)));
          return;
        }
        cancelDeadline = this.#clock.after(this.#waitMs, () => {
          if (isOver) return;
          const error = this.#giveUp(indexes); // first: what is marked there is kept
          refusal = error;
          if (this.#options.graceMs === 0) end(() => reject(error));
          else restart();
        });
      };
      if (isBackground) {
        cancelDeadline = this.#clock.after(this.#options.waitMs, () => {
          const error = this.#unavailable(indexes, this.#options.waitMs);
          for (const { wait } of waits) wait.isKept = true;
          end(() => reject(error));
        });
        return;
      }
      this.#restarts.add(restart);
      restart();
    });
  }

  /** Ends all reads (`shutting-down`) and fetches, and waits for these. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const wait of this.#waits.values())
      wait.abort.abort(new CollectiveError('shutting-down', `${this.#options.name} is being closed`));
    await Promise.allSettled([...this.#waits.values()].map((wait) => wait.block));
  }

  async #askAgain(index: number, sinceMs: number): Promise<void> {
    await this.#clock.sleep(ASK_AGAIN_MS);
    if (this.#isClosed) return;
    const wait = this.#waitFor(index, sinceMs);
    wait.isUnavailable = true; // before it is left, so that the fetch goes on without a reader
    this.#leave(index, wait);
  }

  #waitFor(index: number, sinceMs = this.#clock.nowMs()): Wait {
    const known = this.#waits.get(index);
    if (known !== undefined) {
      known.readers += 1;
      return known;
    }
    const abort = new AbortController();
    const { block, digest } = this.#options.fetch(index, abort.signal);
    const wait: Wait = {
      block,
      abort,
      digest,
      sinceMs,
      readers: 1,
      isUnavailable: false,
      isKept: false,
    };
    this.#waits.set(index, wait);
    // One that was left ends some time later, when another may have begun.
    const forget = (): void => {
      if (this.#waits.get(index) === wait) this.#waits.delete(index);
    };
    block.then(
      () => {
        forget();
        if (wait.isUnavailable) this.#options.onArrived(index, this.#clock.nowMs() - sinceMs);
      },
      () => {
        forget();
        // The fetch itself failed for good (the local disk, say). A machine is paused for this block: ask again.
        if (wait.isUnavailable && !this.#isClosed) void this.#askAgain(index, sinceMs);
      },
    );
    return wait;
  }

  /** A reader has gone. When it was the last one, and none was given up, nobody wants the block any more. */
  #leave(index: number, wait: Wait): void {
    wait.readers -= 1;
    if (wait.readers > 0 || wait.isUnavailable || wait.isKept || this.#waits.get(index) !== wait) return;
    this.#waits.delete(index);
    wait.abort.abort(new Error('nobody waits for the block any more'));
  }

  #giveUp(indexes: readonly number[]): CollectiveError {
    const late = indexes.filter((index) => this.#waits.has(index));
    for (const index of late) {
      const wait = this.#waits.get(index);
      if (wait !== undefined) wait.isUnavailable = true;
    }
    this.#options.onGivenUp(late);
    return this.#unavailable(indexes, this.#waitMs);
  }

  #unavailable(indexes: readonly number[], waitMs: number): CollectiveError {
    const late = indexes.filter((index) => this.#waits.has(index));
    const first = late[0] ?? indexes[0] ?? 0;
    return new CollectiveError(
      'block-unavailable',
      `${this.#options.name}: block ${first}${late.length > 1 ? ` and ${late.length - 1} more` : ''} did not come within ${waitMs} ms`,
      { data: { blockIndex: first, blocks: late.length } },
    );
  }
}
