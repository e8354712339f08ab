/**
 * What the serving and the fetching thread say to each other. Messages are small and go in batches, one array a turn of
 * the event loop; block contents cross through the cache file, and as bytes only when the cache had no room.
 */
import type { MessagePort } from 'node:worker_threads';
import { CollectiveError, type Digest, type ErrorCode } from '@collective/shared';
import type { BlockRequest, FetchClass } from '../block-store.js';
import type { CacheCounters, CacheOptions } from '../cache/cache-writer.js';
import type { ScrubStatus } from '../cache/scrubber.js';
import type { FaultCounts } from '../faults.js';
import type { SlotMemory } from '../cache/slot-arrays.js';
import type { Repository } from './http-line.js';
import type { LinkStatus } from './link-meter.js';
import type { PerClass } from './scheduler-plan.js';
import type { BlockKeys } from '../private/block-key-ring.js';
import type { PrivateSecrets, SnapshotSource } from '../private/private-secrets.js';

/** What the fetching thread is started with. */
export type FetchWorkerData = {
  readonly cacheFolder: string;
  readonly cache: CacheOptions;
  readonly repository: Repository | undefined;
};

/** Asks the fetching thread for a second service, of private blocks, on a port that comes with it. */
export type OpenPrivate = {
  readonly kind: 'open-private';
  readonly port: MessagePort;
  readonly folder: string;
  readonly cache: CacheOptions;
  readonly secrets: PrivateSecrets;
  readonly repository: Repository | undefined;
};
/** The first thing that comes on that port. */
export type PrivateOpened = { readonly kind: 'ready' } | { readonly kind: 'failed'; readonly error: SentError };

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
  /** A block that the serving thread has: into the cache, when it is what its name says. */
  | {
      readonly kind: 'fill';
      readonly id: number;
      readonly request: BlockRequest;
      readonly bytes: Uint8Array<ArrayBuffer>;
    }
  /** Never evicted from now on, or as others again. */
  | {
      readonly kind: 'pin';
      readonly id: number;
      readonly digests: readonly Digest[];
      readonly blockBytes: number;
      readonly isPinned: boolean;
    }
  /** Of private blocks: more keys, and what the `source` of requests stands for. */
  | { readonly kind: 'keys'; readonly blockKeys: BlockKeys }
  | { readonly kind: 'source'; readonly source: string; readonly snapshots: SnapshotSource | undefined }
  | { readonly kind: 'repository'; readonly repository: Repository }
  | { readonly kind: 'network-back' }
  | { readonly kind: 'status'; readonly id: number }
  | { readonly kind: 'scrub'; readonly id: number; readonly request: ScrubRequest }
  | { readonly kind: 'close'; readonly id: number };

/** Nothing of it: only says how it is. */
export type ScrubRequest = {
  /** Begin a whole pass now, if none that was asked for runs. */
  readonly start?: boolean;
  /** Stop the pass that runs; it goes on slowly by itself some time later. */
  readonly stop?: boolean;
  /** Days between the passes that begin by themselves; 0: none. */
  readonly everyDays?: number;
};

export type FetchStatus = {
  readonly cache: CacheCounters;
  readonly link: LinkStatus;
  readonly queued: PerClass;
  readonly outstanding: PerClass;
  /** How fast what nobody waits for is brought in, at most. */
  readonly backgroundBytesPerSecond: number;
  readonly flights: number;
  /** Chunks that did not hold what their name says. */
  readonly corrupt: number;
  readonly faults: FaultCounts;
  /** Undefined where there is no scrub (simulations). */
  readonly scrub: ScrubStatus | undefined;
};

export type SentError = {
  readonly code: ErrorCode;
  readonly message: string;
  readonly data: Readonly<Record<string, string | number | boolean>>;
};

export const sentError = (error: unknown): SentError =>
  error instanceof CollectiveError
    ? { code: error.code, message: error.message, data: error.data }
    : { code: 'internal', message: error instanceof Error ? (error.stack ?? error.message) : String(error), data: {} };

export type FromFetcher =
  | { readonly kind: 'brought'; readonly id: number; readonly bytes?: Uint8Array<ArrayBuffer> }
  | { readonly kind: 'filled'; readonly id: number; readonly isInCache: boolean }
  | { readonly kind: 'pinned'; readonly id: number; readonly count: number }
  | { readonly kind: 'failed'; readonly id: number; readonly error: SentError }
  | { readonly kind: 'opened'; readonly id: number; readonly memory: SlotMemory }
  | { readonly kind: 'status'; readonly id: number; readonly status: FetchStatus }
  | { readonly kind: 'scrub'; readonly id: number; readonly status: ScrubStatus }
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
