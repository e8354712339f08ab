/**
 * Blocks that lie side by side in a segment of a boot object (docs/formats/trace.md) are fetched together: whoever asks for one of them ahead of the guest
 * joins the one read of it, which goes over the line in parts. Segments are read one after the other, in the order in which they were asked for.
 *
 * The guest itself does not wait for a segment whose turn has not come: its block is then fetched alone, and so is every block of a segment that did not
 * come or held something else. So a segment can delay nothing and make nothing wrong; each block is checked by its digest.
 */
import { setMaxListeners } from 'node:events';
import { CollectiveError, decodeSegment, hasCode, type Digest } from '@collective/shared';
import type { BlockRequest, BlockStore, FetchClass, GetOptions, ObjectSegment } from '../block-store.js';
import { publicNaming } from '../cache/block-naming.js';
import { faultOfFetch, type FaultCounters } from '../faults.js';
import type { HttpStore } from './http-store.js';
import { RaisableRank } from './raisable-rank.js';
import { partCount, type Line } from './scheduler-plan.js';
import type { SchedulingStore } from './scheduling-store.js';
import { orAborted } from './single-flight-store.js';

export type BootObjectStoreParts = {
  readonly scheduling: Pick<SchedulingStore, 'inTurn'>;
  readonly chunks: Pick<HttpStore, 'getPart'>;
  /** What is known of it now. */
  readonly line: () => Line;
  readonly faults: FaultCounters;
};

type Blocks = ReadonlyMap<Digest, Buffer>;
type Flight = {
  readonly rank: RaisableRank;
  readonly abort: AbortController;
  readonly blocks: Promise<Blocks>;
  waiters: number;
  /** Its parts are queued, or on the line. */
  hasBegun: boolean;
};

/** Segments that were gone or held something else are not asked for again; more are forgotten. */
const USELESS_MAX = 1_024;

export class BootObjectStore implements BlockStore {
  readonly #next: BlockStore;
  readonly #parts: BootObjectStoreParts;
  readonly #flights = new Map<Digest, Flight>();
  readonly #useless = new Set<Digest>();
  /** Until the last part of the segment before is on the line. */
  #turn: Promise<void> = Promise.resolve();

  /** `next`: brings a block by itself. */
  constructor(next: BlockStore, parts: BootObjectStoreParts) {
    this.#next = next;
    this.#parts = parts;
  }

  async get(request: BlockRequest, options: GetOptions): Promise<Buffer> {
    const { segment } = request;
    if (segment === undefined || options.rank.fetchClass === 'demand' || this.#useless.has(segment.digest))
      return this.#next.get(request, options);
    return (await this.#fromSegment(segment, request, options)) ?? this.#next.get(request, options);
  }

  /** Undefined: the segment has not come, or it is not worth waiting for it. */
  async #fromSegment(segment: ObjectSegment, request: BlockRequest, options: GetOptions): Promise<Buffer | undefined> {
    const { rank, signal } = options;
    signal?.throwIfAborted();
    const flight = this.#flights.get(segment.digest) ?? this.#start(segment, request.blockBytes, rank.fetchClass);
    // A promise, not AbortSignal.any: that costs 40 us a block, for hundreds of blocks while a boot begins.
    let leave = (): void => undefined;
    const left = new Promise<undefined>((resolve) => (leave = (): void => resolve(undefined)));
    const onRaise = (): void => {
      if (flight.hasBegun) flight.rank.raise(rank.fetchClass);
      else if (rank.fetchClass === 'demand') leave();
    };
    const stopListening = rank.onRaise(onRaise);
    signal?.addEventListener('abort', leave, { once: true });
    flight.waiters += 1;
    flight.rank.raise(rank.fetchClass);
    try {
      const blocks = await Promise.race([flight.blocks, left]).catch(() => undefined);
      signal?.throwIfAborted();
      return blocks?.get(request.digest);
    } finally {
      stopListening();
      signal?.removeEventListener('abort', leave);
      flight.waiters -= 1;
      if (flight.waiters === 0) flight.abort.abort(new Error('the last waiter has left'));
    }
  }

  #start(segment: ObjectSegment, blockBytes: number, fetchClass: FetchClass): Flight {
    const rank = new RaisableRank(fetchClass);
    const abort = new AbortController();
    setMaxListeners(0, abort.signal); // some for each part
    const before = this.#turn;
    let passOn = (): void => undefined;
    this.#turn = new Promise((resolve) => (passOn = resolve));
    const read = async (): Promise<Blocks> => {
      try {
        await orAborted(before, abort.signal);
        flight.hasBegun = true;
        const bytes = await this.#read(segment, { rank, signal: abort.signal }, () => passOn());
        return checked(segment, bytes, blockBytes);
      } catch (error) {
        if (!abort.signal.aborted) this.#note(segment, error);
        throw error;
      } finally {
        // The one after it keeps its place behind those before.
        void before.then(passOn);
        abort.abort(new Error('over'));
        if (this.#flights.get(segment.digest) === flight) this.#flights.delete(segment.digest);
      }
    };
    const flight: Flight = { rank, abort, blocks: Promise.resolve().then(read), waiters: 0, hasBegun: false };
    flight.blocks.catch(() => undefined); // every waiter may have left
    this.#flights.set(segment.digest, flight);
    return flight;
  }

  async #read({ digest, chunkBytes }: ObjectSegment, options: GetOptions, onLastTurn: () => void): Promise<Buffer> {
    const { scheduling, chunks, line } = this.#parts;
    const count = partCount(chunkBytes, line());
    const edge = (part: number): number => Math.floor((chunkBytes * part) / count);
    const parts = Array.from({ length: count }, (_, part) => {
      const range = { byteOffset: edge(part), byteLength: edge(part + 1) - edge(part) };
      return scheduling.inTurn(range.byteLength, options, (onBytes) => {
        if (part === count - 1) onLastTurn();
        return chunks.getPart(digest, range, { ...options, onBytes });
      });
    });
    return Buffer.concat(await Promise.all(parts));
  }

  #note({ digest }: ObjectSegment, error: unknown): void {
    // One that is gone has been packed anew: that is no fault.
    const isGone = hasCode(error, 'block-missing');
    const fault = error instanceof CollectiveError && !isGone ? faultOfFetch(error) : undefined;
    if (fault !== undefined) this.#parts.faults.count(fault);
    if (!isGone && !hasCode(error, 'block-corrupt') && !hasCode(error, 'not-allowed')) return;
    this.#useless.add(digest);
    for (const oldest of this.#useless) {
      if (this.#useless.size <= USELESS_MAX) break;
      this.#useless.delete(oldest);
    }
  }
}

/** Errors: `block-corrupt`. */
const checked = ({ digest: name, digests }: ObjectSegment, bytes: Buffer, blockBytes: number): Blocks => {
  try {
    const blocks = decodeSegment(bytes, { touches: digests.length, blockBytes });
    return new Map(
      digests.map((digest, at) => {
        const block = blocks[at];
        if (block === undefined || !publicNaming.isNamed(block, digest))
          throw new CollectiveError('digest-mismatch', `block ${at} is not ${digest}`);
        return [digest, block];
      }),
    );
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new CollectiveError('block-corrupt', `segment ${name} arrived damaged: ${why}`, {
      cause: error,
      data: { fault: hasCode(error, 'digest-mismatch') ? 'net-wrong-bytes' : 'net-not-a-block' },
    });
  }
};
