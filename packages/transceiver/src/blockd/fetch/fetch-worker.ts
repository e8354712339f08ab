/**
 * The fetching thread: downloads, decodes, verifies, fills slots and evicts; the only writer of the cache. Started by
 * FetchThread, speaks thread-messages.ts with it and ends when told to.
 */
import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { CollectiveError } from '@collective/shared';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { buildFetchingHalf, type FetchingHalf } from '../block-path.js';
import { RANK } from '../block-store.js';
import { CacheWriter } from '../cache/cache-writer.js';
import type { Repository } from './http-store.js';
import { LinkMeter } from './link-meter.js';
import {
  MessageBatch,
  type FetchStatus,
  type FetchWorkerData,
  type FromFetcher,
  type SentError,
  type ToFetcher,
} from './thread-messages.js';

const sentError = (error: unknown): SentError =>
  error instanceof CollectiveError
    ? { code: error.code, message: error.message, data: error.data }
    : { code: 'internal', message: error instanceof Error ? (error.stack ?? error.message) : String(error), data: {} };

/** Until the agent has said where the repository is, the line is down. */
const NO_REPOSITORY: Repository = { origin: 'http://127.0.0.1:9' };

class FetchWorker {
  readonly #port: MessagePort;
  readonly #cache: CacheWriter;
  readonly #chain: FetchingHalf;
  readonly #meter = new LinkMeter(() => performance.now());
  readonly #replies: MessageBatch<FromFetcher>;
  /** Who waits for a block, by the id of the request. */
  readonly #waiting = new Map<number, AbortController>();

  constructor(port: MessagePort, cache: CacheWriter, repository: Repository | undefined) {
    this.#port = port;
    this.#cache = cache;
    this.#replies = new MessageBatch((messages, transfer) => port.postMessage(messages, transfer));
    this.#chain = buildFetchingHalf(cache, repository ?? NO_REPOSITORY, {
      meter: this.#meter,
      onTokenRefused: () => this.#replies.add({ kind: 'token-refused' }),
      onFailure: ({ request, error }) =>
        this.#replies.add({ kind: 'trouble', digest: request.digest, error: sentError(error) }),
    });
    port.on('message', (messages: readonly ToFetcher[]) => {
      for (const message of messages) this.#take(message);
    });
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
      case 'repository':
        this.#chain.http.setRepository(message.repository);
        this.#chain.retrying.retryNow();
        return;
      case 'network-back':
        this.#chain.http.renewConnections();
        this.#chain.retrying.retryNow();
        return;
      case 'status':
        this.#replies.add({ kind: 'status', id: message.id, status: this.#status() });
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

  #status(): FetchStatus {
    return {
      cache: this.#cache.counters,
      link: this.#meter.status,
      queued: this.#chain.scheduling.queued,
      outstanding: { ...this.#chain.scheduling.outstanding },
      flights: this.#chain.singleFlight.flightCount,
      corrupt: this.#chain.verifying.corrupt,
    };
  }

  /** From the line up, then the cache. The port is closed last, which ends the thread. */
  async #close(): Promise<void> {
    this.#chain.filling.close();
    for (const abort of this.#waiting.values()) abort.abort(new CollectiveError('shutting-down'));
    await this.#chain.http.close();
    await this.#cache.close();
    setImmediate(() => this.#port.close());
  }
}

if (parentPort !== null) {
  const { cacheFolder, cache, repository } = workerData as FetchWorkerData;
  const writer = await CacheWriter.open(new LocalFileSystem(), cacheFolder, cache);
  new FetchWorker(parentPort, writer, repository);
}
