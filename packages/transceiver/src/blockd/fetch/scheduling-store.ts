/**
 * Owns the line: requests queue by class and go out as scheduler-plan.ts says. A request that is raised while it is queued
 * moves to the end of the better queue; one that is outstanding counts for its better class from then on.
 */
import { CollectiveError } from '@collective/shared';
import type { BlockRequest, ChunkStore, FetchClass, GetChunkOptions } from '../block-store.js';
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
type Ticket = { fetchClass: FetchClass; bytesLeft: number; isOutstanding: boolean; start: () => void };

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
  /** Still to come, of all classes but demand. */
  #bulkBytes = 0;

  /** `line`: what is known of it now. */
  constructor(next: ChunkStore, line: () => Line = () => UNKNOWN_LINE) {
    this.#next = next;
    this.#line = line;
  }

  get queued(): PerClass {
    const { demand, trace, hoard, background } = this.#queues;
    return { demand: demand.size, trace: trace.size, hoard: hoard.size, background: background.size };
  }

  get outstanding(): PerClass {
    return this.#outstanding;
  }

  async getChunk(request: BlockRequest, options: GetChunkOptions): Promise<Buffer> {
    const { rank, signal } = options;
    signal?.throwIfAborted();
    const bytesLeft = request.chunkBytes ?? (this.#line().chunkBytes || CHUNK_BYTES_UNKNOWN);
    const ticket: Ticket = { fetchClass: rank.fetchClass, bytesLeft, isOutstanding: false, start: () => undefined };
    const stopListening = rank.onRaise(() => this.#raise(ticket, rank.fetchClass));
    try {
      await this.#turn(ticket, signal);
      signal?.throwIfAborted();
      return await this.#next.getChunk(request, {
        ...options,
        onBytes: (byteLength) => this.#came(ticket, byteLength),
      });
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
    });
  }

  #begin(ticket: Ticket): void {
    ticket.isOutstanding = true;
    this.#count(ticket, 1);
  }

  #count({ fetchClass, bytesLeft }: Ticket, by: 1 | -1): void {
    this.#outstanding[fetchClass] += by;
    if (fetchClass !== 'demand') this.#bulkBytes += by * bytesLeft;
  }

  /** The next request goes out before the last byte of this one has come: else the line stands still for a round trip. */
  #came(ticket: Ticket, byteLength: number): void {
    if (!ticket.isOutstanding) return;
    const came = Math.min(ticket.bytesLeft, byteLength);
    ticket.bytesLeft -= came;
    if (ticket.fetchClass === 'demand') return;
    this.#bulkBytes -= came;
    this.#startMore();
  }

  get #bulk(): Bulk {
    return { bytes: this.#bulkBytes, bytesMax: bulkBytesMax(this.#line()) };
  }

  #raise(ticket: Ticket, fetchClass: FetchClass): void {
    if (ticket.isOutstanding) this.#count(ticket, -1);
    else if (this.#queues[ticket.fetchClass].delete(ticket)) this.#queues[fetchClass].add(ticket);
    ticket.fetchClass = fetchClass;
    if (ticket.isOutstanding) this.#count(ticket, 1);
    this.#startMore();
  }

  #startMore(): void {
    for (;;) {
      const fetchClass = nextClass(this.queued, this.#outstanding, this.#bulk);
      if (fetchClass === undefined) return;
      const [oldest] = this.#queues[fetchClass];
      oldest?.start();
    }
  }
}
