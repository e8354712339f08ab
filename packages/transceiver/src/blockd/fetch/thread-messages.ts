/**
 * What the serving and the fetching thread say to each other. Messages are small and go in batches, one array a turn of
 * the event loop; block contents cross through the cache file, and as bytes only when the cache had no room.
 */
import type { Digest, ErrorCode } from '@collective/shared';
import type { BlockRequest, FetchClass } from '../block-store.js';
import type { CacheCounters, CacheOptions } from '../cache/cache-writer.js';
import type { SlotMemory } from '../cache/slot-arrays.js';
import type { Repository } from './http-store.js';
import type { LinkStatus } from './link-meter.js';
import type { PerClass } from './scheduler-plan.js';

/** What the fetching thread is started with. */
export type FetchWorkerData = {
  readonly cacheFolder: string;
  readonly cache: CacheOptions;
  readonly repository: Repository | undefined;
};

export type ToFetcher =
  | ({
      readonly kind: 'bring';
      readonly id: number;
      readonly fetchClass: FetchClass;
      readonly wantBytes: boolean;
    } & BlockRequest)
  | { readonly kind: 'leave'; readonly id: number }
  | { readonly kind: 'warm'; readonly requests: readonly BlockRequest[]; readonly fetchClass: FetchClass }
  | { readonly kind: 'damage'; readonly digest: Digest; readonly blockBytes: number }
  | { readonly kind: 'open'; readonly id: number; readonly blockBytes: number }
  | { readonly kind: 'repository'; readonly repository: Repository }
  | { readonly kind: 'network-back' }
  | { readonly kind: 'status'; readonly id: number }
  | { readonly kind: 'close'; readonly id: number };

export type FetchStatus = {
  readonly cache: CacheCounters;
  readonly link: LinkStatus;
  readonly queued: PerClass;
  readonly outstanding: PerClass;
  readonly flights: number;
  /** Chunks that did not hold what their name says. */
  readonly corrupt: number;
};

export type SentError = {
  readonly code: ErrorCode;
  readonly message: string;
  readonly data: Readonly<Record<string, string | number | boolean>>;
};

export type FromFetcher =
  | { readonly kind: 'brought'; readonly id: number; readonly bytes?: Uint8Array<ArrayBuffer> }
  | { readonly kind: 'failed'; readonly id: number; readonly error: SentError }
  | { readonly kind: 'opened'; readonly id: number; readonly memory: SlotMemory }
  | { readonly kind: 'status'; readonly id: number; readonly status: FetchStatus }
  | { readonly kind: 'closed'; readonly id: number }
  /** An attempt failed and will be repeated. */
  | { readonly kind: 'trouble'; readonly digest: Digest; readonly error: SentError }
  | { readonly kind: 'token-refused' };

/** Collects messages and sends them together at the end of the current turn. */
export class MessageBatch<Message> {
  readonly #send: (messages: Message[], transfer: ArrayBuffer[]) => void;
  #messages: Message[] = [];
  #transfer: ArrayBuffer[] = [];

  constructor(send: (messages: Message[], transfer: ArrayBuffer[]) => void) {
    this.#send = send;
  }

  add(message: Message, transfer?: ArrayBuffer): void {
    if (this.#messages.length === 0) queueMicrotask(() => this.#flush());
    this.#messages.push(message);
    if (transfer !== undefined) this.#transfer.push(transfer);
  }

  #flush(): void {
    const messages = this.#messages;
    const transfer = this.#transfer;
    this.#messages = [];
    this.#transfer = [];
    this.#send(messages, transfer);
  }
}
