/**
 * Plays a recording against NBD servers, one connection a disk: each request goes out when the replies that it may depend on have
 * come and the guest's think time × factor has passed (replay-plan.ts). Requests go out in the order of the recording.
 *
 * A read that is answered with an error is sent again, as QEMU does after the pause that the error brought; it counts as
 * waiting until it succeeds. Timers of Node's are up to a millisecond late and a boot thinks ten thousand times, so the
 * last 2 ms of a think time are spent looking at the clock. That costs a processor about what the guest would.
 */
import { COMMAND } from '@collective/transceiver';
import type { NbdPlayerClient } from './nbd-player-client.js';
import type { ReplayPlan, ReplayStep } from './replay-plan.js';

export type PlayResult = {
  /** From the start to the recording's end (the login prompt), milliseconds. */
  readonly totalMs: number;
  /** To the reply to the last request. */
  readonly lastReplyMs: number;
  /** Time with at least one read unanswered; overlapping ones count once. */
  readonly readWaitMs: number;
  readonly requests: number;
  readonly reads: number;
  readonly readBytes: number;
  /** Reads that were answered with an error and sent again. */
  readonly repeated: number;
  /** Requests that the server does not offer (block status, trim) and that were left out. */
  readonly leftOut: number;
};

const SPIN_MS = 2;
/** No reply for so long: the replay fails, naming what it waits for. */
const SILENCE_MS = 300_000;
const REPEATS_MAX = 10_000;

export type PlayOptions = {
  readonly plan: ReplayPlan;
  /** In the order of the recording's disks. */
  readonly clients: readonly NbdPlayerClient[];
  readonly thinkFactor: number;
  readonly silenceMs?: number;
};

/** Resolves at the recording's end; what is unanswered then is not waited for. */
export const play = (options: PlayOptions): Promise<PlayResult> =>
  new Promise((resolve, reject) => new Player(options, { resolve, reject }).start());

class Player {
  readonly #plan: ReplayPlan;
  readonly #clients: readonly NbdPlayerClient[];
  readonly #thinkFactor: number;
  readonly #settle: { readonly resolve: (result: PlayResult) => void; readonly reject: (error: Error) => void };
  readonly #replied: Uint8Array;
  readonly #inFlight = new Set<number>();
  readonly #silence: NodeJS.Timeout;
  #startedMs = 0;
  /** The first so many replies of the recording have come, and when that was so. */
  #prefix = 0;
  #prefixMs = 0;
  /** When the prefix that the next request waits for was reached. */
  readonly #reachedMs: Float64Array;
  #next = 0;
  #isSettled = false;
  #isWaiting = false;
  #timer: NodeJS.Timeout | undefined;
  #readsInFlight = 0;
  #readSinceMs = 0;
  #readWaitMs = 0;
  #lastReplyMs = 0;
  #reads = 0;
  #readBytes = 0;
  #repeated = 0;
  #leftOut = 0;

  constructor(
    options: PlayOptions,
    settle: { readonly resolve: (result: PlayResult) => void; readonly reject: (error: Error) => void },
  ) {
    this.#plan = options.plan;
    this.#clients = options.clients;
    this.#thinkFactor = options.thinkFactor;
    this.#settle = settle;
    this.#replied = new Uint8Array(options.plan.replyCount);
    this.#reachedMs = new Float64Array(options.plan.replyCount + 1);
    this.#silence = setTimeout(() => this.#fail(this.#describeSilence()), options.silenceMs ?? SILENCE_MS);
  }

  start(): void {
    for (const client of this.#clients)
      client.listen(
        (number, failed) => this.#completed(number, failed),
        (error) => this.#fail(`${error.message}; ${this.#describe()}`),
      );
    this.#startedMs = performance.now();
    this.#prefixMs = this.#startedMs;
    this.#reachedMs[0] = this.#startedMs;
    this.#pump();
  }

  /** Sends what is due, then waits for a reply or for the time. */
  #pump(): void {
    while (!this.#isSettled) {
      const step: ReplayStep | undefined = this.#plan.steps[this.#next];
      const { after, thinkUs } = step ?? this.#plan.end;
      if (this.#prefix < after) return;
      const dueMs = (this.#reachedMs[after] ?? this.#startedMs) + (thinkUs / 1000) * this.#thinkFactor;
      if (performance.now() < dueMs) return this.#wait(dueMs);
      if (step === undefined) return this.#finish();
      this.#next += 1;
      this.#send(this.#next - 1, step);
    }
  }

  #wait(dueMs: number): void {
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    const again = (): void => {
      this.#isWaiting = false;
      this.#pump();
    };
    const leftMs = dueMs - performance.now();
    if (leftMs > SPIN_MS + 1) this.#timer = setTimeout(again, Math.floor(leftMs - SPIN_MS));
    else setImmediate(again);
  }

  #send(number: number, { request }: ReplayStep): void {
    const client = this.#clients[request.disk];
    if (client === undefined) return this.#fail(`there is no server for disk ${request.disk}`);
    const adapted = client.adapt(request);
    if (adapted === undefined) {
      this.#leftOut += 1;
      return this.#answered(number);
    }
    if (request.command === COMMAND.read) {
      this.#reads += 1;
      this.#readBytes += request.byteLength;
      if (this.#readsInFlight === 0) this.#readSinceMs = performance.now();
      this.#readsInFlight += 1;
    }
    this.#inFlight.add(number);
    client.send(number, adapted);
  }

  #completed(number: number, failed: boolean): void {
    const step = this.#plan.steps[number];
    if (this.#isSettled || step === undefined) return;
    const { request } = step;
    if (failed && !request.failed) {
      if (request.command !== COMMAND.read) return this.#fail(`request ${number} was refused; ${this.#describe()}`);
      this.#repeated += 1;
      if (this.#repeated > REPEATS_MAX) return this.#fail(`reads keep failing; ${this.#describe()}`);
      this.#clients[request.disk]?.send(number, request);
      return;
    }
    this.#silence.refresh();
    this.#inFlight.delete(number);
    this.#lastReplyMs = performance.now();
    if (request.command === COMMAND.read) {
      this.#readsInFlight -= 1;
      if (this.#readsInFlight === 0) this.#readWaitMs += this.#lastReplyMs - this.#readSinceMs;
    }
    this.#answered(number);
    this.#pump();
  }

  #answered(number: number): void {
    const rank = this.#plan.steps[number]?.replyRank;
    if (rank === undefined) return;
    this.#replied[rank] = 1;
    if (rank !== this.#prefix) return;
    this.#prefixMs = performance.now();
    while (this.#replied[this.#prefix] === 1) {
      this.#prefix += 1;
      this.#reachedMs[this.#prefix] = this.#prefixMs;
    }
  }

  #finish(): void {
    this.#end();
    this.#settle.resolve({
      totalMs: performance.now() - this.#startedMs,
      lastReplyMs: this.#lastReplyMs - this.#startedMs,
      readWaitMs: this.#readWaitMs,
      requests: this.#plan.steps.length,
      reads: this.#reads,
      readBytes: this.#readBytes,
      repeated: this.#repeated,
      leftOut: this.#leftOut,
    });
  }

  #fail(why: string): void {
    if (this.#isSettled) return;
    this.#end();
    this.#settle.reject(new Error(`replay: ${why}`));
  }

  #end(): void {
    this.#isSettled = true;
    clearTimeout(this.#silence);
    clearTimeout(this.#timer);
  }

  #describeSilence(): string {
    return `nothing was answered for a long time; ${this.#describe()}`;
  }

  #describe(): string {
    const [oldest] = this.#inFlight;
    const waiting = oldest === undefined ? undefined : this.#plan.steps[oldest]?.request;
    const what =
      waiting === undefined
        ? 'nothing is in flight'
        : `request ${oldest} (command ${waiting.command}, disk ${waiting.disk}, ${waiting.byteLength} bytes at ${waiting.byteOffset}) is unanswered`;
    return `${this.#next} of ${this.#plan.steps.length} requests were sent, ${what}`;
  }
}
