/**
 * Owns the line: requests queue by class and go out as scheduler-plan.ts says. A request that is raised while it is queued
 * moves to the end of the better queue; one that is outstanding counts for its better class from then on.
 */
import { CollectiveError } from '@collective/shared';
import type { BlockRequest, ChunkStore, FetchClass, GetChunkOptions, GetOptions } from '../block-store.js';
import { systemClock, type Clock } from '../clock.js';
import { FIRST_RATE, rateAfter } from './background-rate.js';
import {
  bulkBytesMax,
  CHUNK_BYTES_UNKNOWN,
  nextClass,
  UNKNOWN_LINE,
  type Bulk,
  type Line,
  type PerClass,
} from './scheduler-plan.js';

/** Requests that wait for their turn, all classes together. */
export const QUEUE_MAX = 65_536;

/** `bytesLeft`: what will come, as far as is known. */
type Ticket = {
  fetchClass: FetchClass;
  bytesLeft: number;
  isOutstanding: boolean;
  /** When it went out; undefined as soon as its first byte is here. */
  sinceMs: number | undefined;
  start: () => void;
};

export class SchedulingStore implements ChunkStore {
  readonly #next: ChunkStore;
  readonly #line: () => Line;
  readonly #queues: Record<FetchClass, Set<Ticket>> = {
    demand: new Set(),
    trace: new Set(),
    hoard: new Set(),
    background: new Set(),
  };
  readonly #outstanding: Record<FetchClass, number> = { demand: 0, trace: 0, hoard: 0, background: 0 };
  readonly #clock: Pick<Clock, 'nowMs' | 'after'>;
  /** Still to come, of all classes but demand. */
  #bulkBytes = 0;
  #rate = FIRST_RATE;
  /** When the next request of the class background may go out. */
  #backgroundFromMs = Number.NEGATIVE_INFINITY;
  /** Ends the wait for that moment. */
  #stopWaiting: (() => void) | undefined;

  /** `line`: what is known of it now. */
  constructor(
    next: ChunkStore,
    line: () => Line = () => UNKNOWN_LINE,
    clock: Pick<Clock, 'nowMs' | 'after'> = systemClock,
  ) {
    this.#next = next;
    this.#line = line;
    this.#clock = clock;
  }

  /** How fast what nobody waits for is brought in, at most. */
  get backgroundBytesPerSecond(): number {
    return this.#rate.bytesPerSecond;
  }

  get queued(): PerClass {
    const { demand, trace, hoard, background } = this.#queues;
    return { demand: demand.size, trace: trace.size, hoard: hoard.size, background: background.size };
  }

  get outstanding(): PerClass {
    return this.#outstanding;
  }

  getChunk(request: BlockRequest, options: GetChunkOptions): Promise<Buffer> {
    const byteLength = request.chunkBytes ?? (this.#line().chunkBytes || CHUNK_BYTES_UNKNOWN);
    return this.inTurn(byteLength, options, (onBytes) => this.#next.getChunk(request, { ...options, onBytes }));
  }

  /** Does the work that brings `byteLength` bytes when its turn has come, and hears from it what has come. Errors: the work's, `rate-limited`, the signal's reason. */
  async inTurn<T>(
    byteLength: number,
    { rank, signal }: GetOptions,
    work: (onBytes: (byteLength: number) => void) => Promise<T>,
  ): Promise<T> {
    signal?.throwIfAborted();
    const ticket: Ticket = {
      fetchClass: rank.fetchClass,
      bytesLeft: byteLength,
      isOutstanding: false,
      sinceMs: undefined,
      start: () => undefined,
    };
    const stopListening = rank.onRaise(() => this.#raise(ticket, rank.fetchClass));
    try {
      await this.#turn(ticket, signal);
      signal?.throwIfAborted();
      return await work((came) => this.#came(ticket, came));
    } finally {
      stopListening();
      if (ticket.isOutstanding) {
        this.#count(ticket, -1);
        this.#startMore();
      }
    }
  }

  /** Resolves when the request is counted as outstanding. */
  #turn(ticket: Ticket, signal: AbortSignal | undefined): Promise<void> {
    const queued = this.queued;
    // Nobody in front, and room on the line: no need to queue.
    if (
      queued[ticket.fetchClass] === 0 &&
      nextClass({ ...queued, [ticket.fetchClass]: 1 }, this.#outstanding, this.#bulk) === ticket.fetchClass
    ) {
      this.#begin(ticket);
      return Promise.resolve();
    }
    const queuedCount = queued.demand + queued.trace + queued.hoard + queued.background;
    if (queuedCount >= QUEUE_MAX && ticket.fetchClass !== 'demand') {
      return Promise.reject(new CollectiveError('rate-limited', `${queuedCount} fetches are queued already`));
    }
    return new Promise<void>((resolve, reject) => {
      const onAbort = (): void => {
        this.#queues[ticket.fetchClass].delete(ticket);
        reject(signal?.reason instanceof Error ? signal.reason : new Error('aborted'));
      };
      ticket.start = () => {
        signal?.removeEventListener('abort', onAbort);
        this.#queues[ticket.fetchClass].delete(ticket);
        this.#begin(ticket);
        resolve();
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#queues[ticket.fetchClass].add(ticket);
      if (ticket.fetchClass === 'background') this.#startMore(); // or when its rate lets it
    });
  }

  #begin(ticket: Ticket): void {
    const nowMs = this.#clock.nowMs();
    ticket.isOutstanding = true;
    ticket.sinceMs = nowMs;
    this.#count(ticket, 1);
    if (ticket.fetchClass !== 'background') return;
    const tookMs = (ticket.bytesLeft * 1000) / this.#rate.bytesPerSecond;
    this.#backgroundFromMs = Math.max(nowMs, this.#backgroundFromMs) + tookMs;
  }

  #count({ fetchClass, bytesLeft }: Ticket, by: 1 | -1): void {
    this.#outstanding[fetchClass] += by;
    if (fetchClass !== 'demand') this.#bulkBytes += by * bytesLeft;
  }

  /** The next request goes out before the last byte of this one has come: else the line stands still for a round trip. */
  #came(ticket: Ticket, byteLength: number): void {
    if (!ticket.isOutstanding) return;
    this.#noteFirstByte(ticket);
    const came = Math.min(ticket.bytesLeft, byteLength);
    ticket.bytesLeft -= came;
    if (ticket.fetchClass === 'demand') return;
    this.#bulkBytes -= came;
    this.#startMore();
  }

  /** What is asked for ahead comes many at once, and waits for itself: it says nothing of the line. */
  #noteFirstByte(ticket: Ticket): void {
    const { sinceMs, fetchClass } = ticket;
    ticket.sinceMs = undefined;
    if (sinceMs === undefined || fetchClass === 'trace' || fetchClass === 'hoard') return;
    const nowMs = this.#clock.nowMs();
    const before = this.#rate.bytesPerSecond;
    this.#rate = rateAfter(this.#rate, { sentAtMs: sinceMs, cameAtMs: nowMs }, this.#line().bytesPerSecond);
    if (this.#rate.bytesPerSecond === before || this.#backgroundFromMs <= nowMs) return;
    // What is left of the wait is waited at the new rate: from the lowest one it would be seconds.
    this.#backgroundFromMs = nowMs + ((this.#backgroundFromMs - nowMs) * before) / this.#rate.bytesPerSecond;
    this.#stopWaiting?.();
    this.#stopWaiting = undefined;
    this.#startMore();
  }

  get #bulk(): Bulk {
    return {
      bytes: this.#bulkBytes,
      bytesMax: bulkBytesMax(this.#line()),
      isBackgroundDue: this.#backgroundFromMs <= this.#clock.nowMs(),
    };
  }

  #raise(ticket: Ticket, fetchClass: FetchClass): void {
    if (ticket.isOutstanding) this.#count(ticket, -1);
    else if (this.#queues[ticket.fetchClass].delete(ticket)) this.#queues[fetchClass].add(ticket);
    ticket.fetchClass = fetchClass;
    if (ticket.isOutstanding) this.#count(ticket, 1);
    this.#startMore();
  }

  #startMore(): void {
    // As it was at the last look: its time may come before the next one, and then nobody else would start it.
    let isBackgroundDue: boolean;
    for (;;) {
      const bulk = this.#bulk;
      ({ isBackgroundDue } = bulk);
      const fetchClass = nextClass(this.queued, this.#outstanding, bulk);
      if (fetchClass === undefined) break;
      const [oldest] = this.#queues[fetchClass];
      oldest?.start();
    }
    if (this.#queues.background.size === 0 || isBackgroundDue || this.#stopWaiting !== undefined) return;
    this.#stopWaiting = this.#clock.after(Math.max(0, this.#backgroundFromMs - this.#clock.nowMs()), () => {
      this.#stopWaiting = undefined;
      this.#startMore();
    });
  }
}
