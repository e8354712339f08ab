/**
 * The serving thread's side of the messages to the fetching thread: a CacheFiller that answers when the other side has.
 * Knows no thread, only a way to send: FetchThread gives it a worker, a simulation a slow line.
 */
import { CollectiveError, type Digest } from '@collective/shared';
import type { BlockRequest, FetchRank, GetOptions } from '../block-store.js';
import type { CacheFiller } from '../cache/cached-store.js';
import type { ScrubStatus } from '../cache/scrubber.js';
import type { SlotMemory } from '../cache/slot-arrays.js';
import type { BlockKeys } from '../private/block-key-ring.js';
import type { SnapshotSource } from '../private/private-secrets.js';
import type { Repository } from './http-line.js';
import {
  MessageBatch,
  type FetchStatus,
  type FromFetcher,
  type ScrubRequest,
  type SentError,
  type ToFetcher,
} from './thread-messages.js';

export type FetchClientEvents = {
  /** An attempt to fetch this block failed; it goes on. */
  readonly onTrouble?: (digest: Digest, error: SentError) => void;
  /** The server no longer takes the token; a new one is to be set with `setRepository`. */
  readonly onTokenRefused?: () => void;
};

type Answer = Extract<FromFetcher, { id: number }>;

export class FetchClient implements CacheFiller {
  readonly #events: FetchClientEvents;
  readonly #requests: MessageBatch<ToFetcher>;
  readonly #pending = new Map<number, { resolve: (answer: Answer) => void; reject: (error: Error) => void }>();
  #nextId = 1;

  /** `send` carries messages to the FetchService, in order. */
  constructor(send: (messages: ToFetcher[], transfer: ArrayBuffer[]) => void, events: FetchClientEvents) {
    this.#events = events;
    this.#requests = new MessageBatch(send);
  }

  /** Requests that have no answer yet. */
  get pendingCount(): number {
    return this.#pending.size;
  }

  /** Messages of the FetchService, in order. */
  receive(messages: readonly FromFetcher[]): void {
    for (const message of messages) this.#take(message);
  }

  /** Nothing more will be answered. */
  fail(error: Error): void {
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }

  async bring(
    request: BlockRequest,
    options: GetOptions & { readonly wantBytes: boolean },
  ): Promise<Buffer | undefined> {
    const { digest, blockBytes, neighbourhood, source } = request;
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
        ...(source === undefined ? {} : { source }),
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

  /**
   * Puts a block that is at hand into the cache; false when there was no room. `block` is copied. Errors: `digest-mismatch` when it is not what its
   * name says.
   */
  async fill(request: BlockRequest, block: Uint8Array): Promise<boolean> {
    const bytes = new Uint8Array(block);
    const answer = await this.#ask({ kind: 'fill', id: this.#nextId, request, bytes }, bytes.buffer);
    return answer.kind === 'filled' && answer.isInCache;
  }

  /** How many of the blocks are in the cache: those are never evicted from now on, or as others again. */
  async pin(
    digests: readonly Digest[],
    { blockBytes, isPinned }: { readonly blockBytes: number; readonly isPinned: boolean },
  ): Promise<number> {
    const answer = await this.#ask({ kind: 'pin', id: this.#nextId, digests, blockBytes, isPinned });
    return answer.kind === 'pinned' ? answer.count : 0;
  }

  addKeys(blockKeys: BlockKeys): void {
    this.#requests.add({ kind: 'keys', blockKeys });
  }

  /** What the `source` of requests stands for; undefined: nothing any more. */
  setSource(source: string, snapshots: SnapshotSource | undefined): void {
    this.#requests.add({ kind: 'source', source, snapshots });
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

  async scrub(request: ScrubRequest): Promise<ScrubStatus> {
    const answer = await this.#ask({ kind: 'scrub', id: this.#nextId, request });
    if (answer.kind !== 'scrub') throw new Error(`the fetching thread answered ${answer.kind} to scrub`);
    return answer.status;
  }

  /** Gives up what is being fetched and writes the tables. Only once. */
  async close(): Promise<void> {
    await this.#ask({ kind: 'close', id: this.#nextId });
  }

  #ask(message: Extract<ToFetcher, { id: number }>, transfer?: ArrayBuffer): Promise<Answer> {
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#pending.set(message.id, { resolve, reject });
      this.#requests.add(message, transfer);
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
}
