/**
 * Joins requests for one block into one fetch: many waiters, each with its own signal. The fetch has the best class that
 * any waiter asked with, and stops when the last waiter has left.
 */
import type { BlockRequest, BlockStore, GetOptions } from '../block-store.js';
import { RaisableRank } from './raisable-rank.js';

type Flight = {
  readonly rank: RaisableRank;
  readonly abort: AbortController;
  readonly block: Promise<Buffer>;
  waiters: number;
};

export class SingleFlightStore implements BlockStore {
  readonly #next: BlockStore;
  readonly #flights = new Map<string, Flight>();

  constructor(next: BlockStore) {
    this.#next = next;
  }

  /** Fetches under way. */
  get flightCount(): number {
    return this.#flights.size;
  }

  async get(request: BlockRequest, options: GetOptions): Promise<Buffer> {
    options.signal?.throwIfAborted();
    const key = `${request.digest}/${request.blockBytes}/${request.source ?? ''}`;
    const flight = this.#flights.get(key) ?? this.#start(key, request, options);
    flight.waiters += 1;
    flight.rank.raise(options.rank.fetchClass);
    const stopListening = options.rank.onRaise(() => flight.rank.raise(options.rank.fetchClass));
    try {
      return await orAborted(flight.block, options.signal);
    } finally {
      stopListening();
      flight.waiters -= 1;
      if (flight.waiters === 0 && this.#flights.get(key) === flight) {
        this.#flights.delete(key);
        flight.abort.abort(new Error('the last waiter has left'));
      }
    }
  }

  #start(key: string, request: BlockRequest, options: GetOptions): Flight {
    const rank = new RaisableRank(options.rank.fetchClass);
    const abort = new AbortController();
    const block = this.#next.get(request, { rank, signal: abort.signal }).finally(() => {
      if (this.#flights.get(key) === flight) this.#flights.delete(key);
    });
    block.catch(() => undefined); // every waiter may have left
    const flight: Flight = { rank, abort, block, waiters: 0 };
    this.#flights.set(key, flight);
    return flight;
  }
}

/** The promise, or the signal's reason if it aborts before. The work behind the promise goes on. */
export const orAborted = <T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> => {
  if (signal === undefined) return promise;
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => reject(asError(signal.reason));
    if (signal.aborted) {
      promise.catch(() => undefined); // nobody waits for it
      return onAbort();
    }
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(
      (value) => {
        signal.removeEventListener('abort', onAbort);
        resolve(value);
      },
      (error: unknown) => {
        signal.removeEventListener('abort', onAbort);
        reject(asError(error));
      },
    );
  });
};

const asError = (reason: unknown): Error => (reason instanceof Error ? reason : new Error(String(reason)));
