/**
 * The fetching thread's side of the messages: downloads, decodes, verifies, fills slots and evicts; the only writer of the
 * cache. Knows no thread, only a way to answer: fetch-worker.ts gives it a port, a simulation a slow line.
 */
import { CollectiveError } from '@collective/shared';
import {
  buildFetchingHalf,
  buildPrivateFetchingHalf,
  type FetchingHalf,
  type FetchingHalfOptions,
  type PrivateFetchingHalf,
} from '../block-path.js';
import { RANK } from '../block-store.js';
import type { CacheWriter } from '../cache/cache-writer.js';
import type { Scrubber, ScrubStatus } from '../cache/scrubber.js';
import { publicNaming } from '../cache/block-naming.js';
import { systemClock } from '../clock.js';
import { FaultCounters, sumFaults } from '../faults.js';
import type { BlockKeyRing } from '../private/block-key-ring.js';
import type { HttpLineOptions, Repository } from './http-line.js';
import { LinkMeter } from './link-meter.js';
import {
  MessageBatch,
  sentError,
  type FetchStatus,
  type FromFetcher,
  type ScrubRequest,
  type ToFetcher,
} from './thread-messages.js';

/** Until the agent has said where the repository is, the line is down. */
const NO_REPOSITORY: Repository = { origin: 'http://127.0.0.1:9' };

export type FetchServiceOptions = Pick<HttpLineOptions, 'clock' | 'openPool'> & {
  readonly repository?: Repository | undefined;
  /** Carries messages to the FetchClient, in order. */
  readonly send: (messages: FromFetcher[], transfer: ArrayBuffer[]) => void;
  /** The service has closed and its last answer is on its way. */
  readonly onClosed: () => void;
  /** Closed by the service. */
  readonly scrubber?: Scrubber;
  /** Its blocks are private: they come from snapshots, and these are their keys. */
  readonly ring?: BlockKeyRing;
  /** Jitter of the retries, in [0, 1). */
  readonly random?: () => number;
};

export class FetchService {
  readonly #options: FetchServiceOptions;
  readonly #cache: CacheWriter;
  readonly #faults = new FaultCounters();
  readonly #chain: FetchingHalf | PrivateFetchingHalf;
  readonly #meter: LinkMeter;
  readonly #replies: MessageBatch<FromFetcher>;
  /** Who waits for a block, by the id of the request. */
  readonly #waiting = new Map<number, AbortController>();

  constructor(cache: CacheWriter, options: FetchServiceOptions) {
    this.#options = options;
    this.#cache = cache;
    const clock = options.clock ?? systemClock;
    this.#meter = new LinkMeter(() => clock.nowMs());
    this.#replies = new MessageBatch(options.send);
    const chainOptions: FetchingHalfOptions = {
      clock,
      meter: this.#meter,
      faults: this.#faults,
      ...(options.openPool === undefined ? {} : { openPool: options.openPool }),
      ...(options.random === undefined ? {} : { random: options.random }),
      onTokenRefused: () => this.#replies.add({ kind: 'token-refused' }),
      onFailure: ({ request, error }) =>
        this.#replies.add({ kind: 'trouble', digest: request.digest, error: sentError(error) }),
    };
    const repository = options.repository ?? NO_REPOSITORY;
    const { ring } = options;
    this.#chain =
      ring === undefined
        ? buildFetchingHalf(cache, repository, chainOptions)
        : buildPrivateFetchingHalf(cache, repository, { ...chainOptions, ring });
  }

  /** Messages of the FetchClient, in order. */
  receive(messages: readonly ToFetcher[]): void {
    for (const message of messages) this.#take(message);
  }

  /** Requests for blocks that have no answer yet. */
  get waiterCount(): number {
    return this.#waiting.size;
  }

  get status(): FetchStatus {
    return {
      cache: this.#cache.counters,
      link: this.#meter.status,
      queued: this.#chain.scheduling.queued,
      outstanding: { ...this.#chain.scheduling.outstanding },
      backgroundBytesPerSecond: Math.round(this.#chain.scheduling.backgroundBytesPerSecond),
      flights: this.#chain.singleFlight.flightCount,
      corrupt: this.#chain.verifying.corrupt,
      faults: sumFaults([this.#faults.counts, this.#cache.faults]),
      scrub: this.#options.scrubber?.status,
    };
  }

  #take(message: ToFetcher): void {
    switch (message.kind) {
      case 'bring':
        void this.#bring(message);
        return;
      case 'leave':
        this.#waiting.get(message.id)?.abort(new Error('the waiter has left'));
        return;
      case 'warm':
        this.#chain.filling.warm(message.requests, RANK[message.fetchClass]);
        return;
      case 'damage':
        this.#chain.filling.reportDamage(message);
        return;
      case 'open':
        void this.#answer(message.id, async () => {
          const file = await this.#cache.file(message.blockBytes);
          return { kind: 'opened', id: message.id, memory: file.memory };
        });
        return;
      case 'fill':
        void this.#answer(message.id, () => this.#fill(message));
        return;
      case 'pin':
        void this.#answer(message.id, () =>
          Promise.resolve({ kind: 'pinned', id: message.id, count: this.#cache.setPinned(message) }),
        );
        return;
      case 'keys':
        if ('ring' in this.#chain) this.#chain.ring.add(message.blockKeys);
        this.#chain.retrying.retryNow();
        return;
      case 'source':
        if ('ring' in this.#chain) this.#chain.http.setSource(message.source, message.snapshots);
        return;
      case 'repository':
        this.#chain.http.setRepository(message.repository);
        this.#chain.retrying.retryNow();
        return;
      case 'network-back':
        this.#chain.http.renewConnections();
        this.#chain.retrying.retryNow();
        return;
      case 'status':
        this.#replies.add({ kind: 'status', id: message.id, status: this.status });
        return;
      case 'scrub':
        void this.#answer(message.id, () =>
          Promise.resolve({ kind: 'scrub', id: message.id, status: this.#scrub(message.request) }),
        );
        return;
      case 'close':
        void this.#answer(message.id, async () => {
          await this.#close();
          return { kind: 'closed', id: message.id };
        });
        return;
      default:
        message satisfies never;
    }
  }

  #scrub({ start, stop, everyDays }: ScrubRequest): ScrubStatus {
    const { scrubber } = this.#options;
    if (scrubber === undefined) throw new CollectiveError('not-found', 'there is no scrub here');
    if (everyDays !== undefined) scrubber.setEveryDays(everyDays);
    if (stop === true) scrubber.stop();
    if (start === true) scrubber.start();
    return scrubber.status;
  }

  async #fill({ id, request, bytes }: Extract<ToFetcher, { kind: 'fill' }>): Promise<FromFetcher> {
    const naming = this.#options.ring ?? publicNaming;
    if (bytes.length !== request.blockBytes || !naming.isNamed(bytes, request.digest))
      throw new CollectiveError('digest-mismatch', `the bytes to fill are not block ${request.digest}`);
    const isInCache = await this.#chain.filling.fill(request, Buffer.from(bytes.buffer));
    return { kind: 'filled', id, isInCache };
  }

  async #bring(message: Extract<ToFetcher, { kind: 'bring' }>): Promise<void> {
    const { id, fetchClass, wantBytes } = message;
    const abort = new AbortController();
    this.#waiting.set(id, abort);
    await this.#answer(id, async () => {
      const block = await this.#chain.filling.bring(message, {
        rank: RANK[fetchClass],
        signal: abort.signal,
        wantBytes,
      });
      // Copied: other waiters hold the same buffer, and it may be a part of a pool.
      return block === undefined ? { kind: 'brought', id } : { kind: 'brought', id, bytes: new Uint8Array(block) };
    });
    this.#waiting.delete(id);
  }

  async #answer(id: number, work: () => Promise<FromFetcher>): Promise<void> {
    let reply: FromFetcher;
    try {
      reply = await work();
    } catch (error) {
      reply = { kind: 'failed', id, error: sentError(error) };
    }
    const bytes = reply.kind === 'brought' ? reply.bytes : undefined;
    this.#replies.add(reply, bytes?.buffer);
  }

  /** From the line up, then the cache. */
  async #close(): Promise<void> {
    this.#chain.filling.close();
    for (const abort of this.#waiting.values()) abort.abort(new CollectiveError('shutting-down'));
    await this.#chain.http.close();
    await this.#options.scrubber?.close();
    await this.#cache.close();
    setImmediate(this.#options.onClosed);
  }
}
