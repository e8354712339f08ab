/**
 * The serving thread's handle of the fetching thread: a CacheFiller that answers when the other thread has.
 *
 * When the thread dies the process must: it is the only writer of the cache, and the supervisor starts both anew.
 */
import { Worker } from 'node:worker_threads';
import { CollectiveError, type Digest } from '@collective/shared';
import type { BlockRequest, FetchRank, GetOptions } from '../block-store.js';
import type { CacheFiller } from '../cache/cached-store.js';
import type { SlotMemory } from '../cache/slot-arrays.js';
import type { Repository } from './http-store.js';
import {
  MessageBatch,
  type FetchStatus,
  type FetchWorkerData,
  type FromFetcher,
  type SentError,
  type ToFetcher,
} from './thread-messages.js';

export type FetchThreadEvents = {
  /** An attempt to fetch this block failed; it goes on. */
  readonly onTrouble?: (digest: Digest, error: SentError) => void;
  /** The server no longer takes the token; a new one is to be set with `setRepository`. */
  readonly onTokenRefused?: () => void;
  /** The thread has died. Nothing more will be answered. */
  readonly onDeath: (error: Error) => void;
};

type Answer = Extract<FromFetcher, { id: number }>;

export class FetchThread implements CacheFiller {
  readonly #worker: Worker;
  readonly #events: FetchThreadEvents;
  readonly #requests: MessageBatch<ToFetcher>;
  readonly #pending = new Map<number, { resolve: (answer: Answer) => void; reject: (error: Error) => void }>();
  #nextId = 1;
  #closing: Promise<void> | undefined;

  /** `script`: the built fetch-worker.js; only tests that run on the sources give another. */
  constructor(
    data: FetchWorkerData,
    events: FetchThreadEvents,
    script: URL = new URL('./fetch-worker.js', import.meta.url),
  ) {
    this.#events = events;
    this.#worker = new Worker(script, { workerData: data, name: 'fetch' });
    this.#requests = new MessageBatch((messages) => this.#worker.postMessage(messages));
    this.#worker.on('message', (messages: readonly FromFetcher[]) => {
      for (const message of messages) this.#take(message);
    });
    this.#worker.once('error', (error) => this.#die(error instanceof Error ? error : new Error(String(error))));
    this.#worker.once('exit', () => this.#die(new CollectiveError('shutting-down', 'the fetching thread has ended')));
  }

  async bring(
    request: BlockRequest,
    options: GetOptions & { readonly wantBytes: boolean },
  ): Promise<Buffer | undefined> {
    const { digest, blockBytes, neighbourhood } = request;
    const { rank, signal, wantBytes } = options;
    signal?.throwIfAborted();
    const id = this.#nextId;
    const leave = (): void => this.#requests.add({ kind: 'leave', id });
    signal?.addEventListener('abort', leave, { once: true });
    try {
      const answer = await this.#ask({
        kind: 'bring',
        id,
        digest,
        blockBytes,
        neighbourhood,
        fetchClass: rank.fetchClass,
        wantBytes,
      });
      if (answer.kind !== 'brought' || answer.bytes === undefined) return undefined;
      return Buffer.from(answer.bytes.buffer, answer.bytes.byteOffset, answer.bytes.byteLength);
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener('abort', leave);
    }
  }

  warm(requests: readonly BlockRequest[], rank: FetchRank): void {
    this.#requests.add({ kind: 'warm', requests, fetchClass: rank.fetchClass });
  }

  reportDamage({ digest, blockBytes }: { readonly digest: Digest; readonly blockBytes: number }): void {
    this.#requests.add({ kind: 'damage', digest, blockBytes });
  }

  /** The shared arrays of the slot file for blocks of that size, which is opened or made. */
  async openSlotFile(blockBytes: number): Promise<SlotMemory> {
    const answer = await this.#ask({ kind: 'open', id: this.#nextId, blockBytes });
    if (answer.kind !== 'opened') throw new Error(`the fetching thread answered ${answer.kind} to open`);
    return answer.memory;
  }

  setRepository(repository: Repository): void {
    this.#requests.add({ kind: 'repository', repository });
  }

  networkIsBack(): void {
    this.#requests.add({ kind: 'network-back' });
  }

  async status(): Promise<FetchStatus> {
    const answer = await this.#ask({ kind: 'status', id: this.#nextId });
    if (answer.kind !== 'status') throw new Error(`the fetching thread answered ${answer.kind} to status`);
    return answer.status;
  }

  /** Gives up what is being fetched, writes the tables and ends the thread. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#ask({ kind: 'close', id: this.#nextId });
      await this.#worker.terminate();
    })();
    return this.#closing;
  }

  #ask(message: Extract<ToFetcher, { id: number }>): Promise<Answer> {
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#pending.set(message.id, { resolve, reject });
      this.#requests.add(message);
    });
  }

  #take(message: FromFetcher): void {
    switch (message.kind) {
      case 'trouble':
        this.#events.onTrouble?.(message.digest, message.error);
        return;
      case 'token-refused':
        this.#events.onTokenRefused?.();
        return;
      default: {
        const pending = this.#pending.get(message.id);
        this.#pending.delete(message.id);
        if (message.kind === 'failed')
          pending?.reject(new CollectiveError(message.error.code, message.error.message, { data: message.error.data }));
        else pending?.resolve(message);
      }
    }
  }

  #die(error: Error): void {
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
    if (this.#closing === undefined) this.#events.onDeath(error);
  }
}
