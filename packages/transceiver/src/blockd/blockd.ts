/**
 * The block daemon's state: the cache, the fetching thread and the attached disks. It keeps nothing else: what is attached is
 * told anew by the supervisor after a restart.
 */
import type net from 'node:net';
import { CollectiveError, hasCode, type Digest, type ErrorCode } from '@collective/shared';
import type { FileSystem } from '../storage/file-system.js';
import { AttachedDisk, type AttachParams } from './attached-disk.js';
import { CachedStore } from './cache/cached-store.js';
import type { CacheOptions } from './cache/cache-writer.js';
import { slotFileName } from './cache/slot-file.js';
import { SlotReader } from './cache/slot-reader.js';
import { TOUCH_EPOCH_MS } from './cache/touches.js';
import type { BlockdStatus, ControlEvent, ControlRequest } from './control/control-protocol.js';
import { FetchThread } from './fetch/fetch-thread.js';

export type BlockdOptions = {
  readonly fileSystem: FileSystem;
  readonly cacheFolder: string;
  readonly cache: CacheOptions;
  readonly onEvent: (event: ControlEvent) => void;
  /** The fetching thread has died: the process has to end, so that it is started anew. */
  readonly onDeath: (error: Error) => void;
};

/** Reasons that are remembered for blocks that have not come. */
const TROUBLES_MAX = 4096;
/** How long an `attach` waits for a listening socket that comes over the other channel. */
const HANDLE_WAIT_MS = 5_000;
const WARM_TIMEOUT_MS = 30_000;

export class Blockd {
  readonly #options: BlockdOptions;
  readonly #fetcher: FetchThread;
  readonly #store: CachedStore;
  readonly #openings = new Map<number, Promise<void>>();
  readonly #disks = new Map<string, AttachedDisk>();
  readonly #attaching = new Set<string>();
  readonly #troubles = new Map<Digest, string>();
  /** Listening sockets that the parent has sent, until a disk takes them. */
  readonly #handles = new Map<string, net.Server>();
  readonly #handleWaiters = new Map<string, (server: net.Server) => void>();
  /** Names of sockets that are still on their way and whose attach has failed. */
  readonly #unwantedHandles = new Set<string>();
  readonly #epochTimer: NodeJS.Timeout;
  readonly #startedAt = Math.floor(Date.now() / 1000);
  #repository: string | null = null;
  #lastError: BlockdStatus['lastError'] = null;
  #closed: Promise<void> | undefined;

  /** Starts the fetching thread. The caller holds the lock of the cache. */
  constructor(options: BlockdOptions) {
    this.#options = options;
    this.#fetcher = new FetchThread(
      { cacheFolder: options.cacheFolder, cache: options.cache, repository: undefined },
      {
        onTrouble: (digest, error) => this.#noteTrouble(digest, error),
        onTokenRefused: () => options.onEvent({ event: 'token-refused' }),
        onDeath: options.onDeath,
      },
    );
    this.#store = new CachedStore(this.#fetcher);
    this.#epochTimer = setInterval(() => {
      for (const reader of this.#store.readers) reader.refreshEpoch();
    }, TOUCH_EPOCH_MS);
    this.#epochTimer.unref();
  }

  get diskCount(): number {
    return this.#disks.size;
  }

  /** A listening socket from the parent process. */
  takeHandle(name: string, server: net.Server): void {
    if (this.#unwantedHandles.delete(name)) {
      server.close();
      return;
    }
    const waiter = this.#handleWaiters.get(name);
    if (waiter === undefined) this.#handles.set(name, server);
    else waiter(server);
  }

  /** Answers all requests but `events` and `shutdown`, which belong to the process. */
  async handle(request: Exclude<ControlRequest, { method: 'events' | 'shutdown' }>): Promise<object> {
    if (this.#closed !== undefined) throw new CollectiveError('shutting-down', 'blockd is shutting down');
    switch (request.method) {
      case 'hello':
        return { protocol: 1, pid: process.pid, startedAt: this.#startedAt };
      case 'attach':
        return await this.#attach(request.params);
      case 'detach':
        return { detached: await this.#detach(request.params) };
      case 'warm':
        await this.#disk(request.params)
          .warm(request.params.blocks ?? [0], AbortSignal.timeout(request.params.timeoutMs ?? WARM_TIMEOUT_MS))
          .catch(asUnavailable);
        return {};
      case 'status':
        return await this.status();
      case 'repository': {
        const { origin, pin, token } = request.params;
        this.#repository = origin;
        this.#fetcher.setRepository({ origin, pin, token });
        return {};
      }
      case 'network-back':
        this.#fetcher.networkIsBack();
        return {};
      case 'trace-start':
        for (const disk of this.#disksOf(request.params.session)) disk.restartTrace();
        return {};
      case 'phase':
        for (const disk of this.#disksOf(request.params.session)) disk.setPhase(request.params.phase);
        return {};
      case 'trace': {
        const trace = this.#disk(request.params).trace();
        if (trace === undefined) throw new CollectiveError('not-found', `${request.params.disk} has no trace`);
        return { trace: trace.bytes.toString('base64'), touches: trace.touches };
      }
      default:
        return request satisfies never;
    }
  }

  async status(): Promise<BlockdStatus> {
    const { cache, ...fetch } = await this.#fetcher.status();
    let verified = 0;
    let damaged = 0;
    for (const { counters } of this.#store.readers) {
      verified += counters.verified;
      damaged += counters.damaged;
    }
    return {
      pid: process.pid,
      startedAt: this.#startedAt,
      repository: this.#repository,
      disks: [...this.#disks.values()].map((disk) => disk.status((digest) => this.#troubles.get(digest))),
      cache: { ...cache, ...this.#store.counters, verified, damaged },
      fetch,
      lastError: this.#lastError,
    };
  }

  /** Closes disks (overlays are flushed and stay), then the cache. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      clearInterval(this.#epochTimer);
      const results = await Promise.allSettled(
        [...this.#disks.values()].map((disk) => disk.close({ removeTemporary: false })),
      );
      for (const server of this.#handles.values()) server.close();
      results.push(...(await Promise.allSettled([this.#fetcher.close()])));
      results.push(...(await Promise.allSettled([this.#store.close()])));
      const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
      if (errors.length > 0) throw new AggregateError(errors, 'blockd did not close cleanly');
    })();
    return this.#closed;
  }

  async #attach(params: AttachParams): Promise<{ readonly byteLength: number }> {
    const { session, disk } = params;
    const key = `${session}/${disk}`;
    if (this.#disks.has(key) || this.#attaching.has(key))
      throw new CollectiveError('exists', `${key} is attached already`);
    this.#attaching.add(key);
    let isHandleTaken = !('handle' in params.listen);
    try {
      const { onEvent, fileSystem } = this.#options;
      const attached = await AttachedDisk.open(params, {
        fileSystem,
        store: this.#store,
        openBlockSize: (blockBytes) => this.#openBlockSize(blockBytes),
        listener: async (listen) => {
          isHandleTaken = true;
          return 'handle' in listen ? { server: await this.#handle(listen.handle) } : listen;
        },
        onUnavailable: (blockIndex, digest) =>
          onEvent({
            event: 'block-unavailable',
            session,
            disk,
            blockIndex,
            reason: this.#troubles.get(digest) ?? 'the line is slow',
          }),
        onArrived: (blockIndex, waitedMs) =>
          onEvent({
            event: 'block-arrived',
            session,
            disk,
            blockIndex,
            waitedMs: Math.round(waitedMs),
            stillUnavailable: attached.unavailableCount,
          }),
        onFailed: (error) => {
          if (hasCode(error, 'disk-full')) onEvent({ event: 'disk-full', session, disk, message: error.message });
          else if (!hasCode(error, 'block-unavailable')) console.error(`blockd: ${key}:`, error);
        },
      });
      this.#disks.set(key, attached);
      return { byteLength: attached.byteLength };
    } catch (error) {
      if (!isHandleTaken && 'handle' in params.listen) this.#refuseHandle(params.listen.handle);
      throw error;
    } finally {
      this.#attaching.delete(key);
    }
  }

  async #detach({ session, disk }: { readonly session: string; readonly disk?: string }): Promise<number> {
    const disks = disk === undefined ? this.#disksOf(session) : [this.#disk({ session, disk })];
    const results = await Promise.allSettled(
      disks.map(async (each) => {
        try {
          await each.close({ removeTemporary: true });
        } finally {
          this.#disks.delete(`${each.session}/${each.disk}`);
        }
      }),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    return disks.length;
  }

  #disksOf(session: string): AttachedDisk[] {
    return [...this.#disks.values()].filter((disk) => disk.session === session);
  }

  #disk({ session, disk }: { readonly session: string; readonly disk: string }): AttachedDisk {
    const attached = this.#disks.get(`${session}/${disk}`);
    if (attached === undefined) throw new CollectiveError('not-found', `${session}/${disk} is not attached`);
    return attached;
  }

  #openBlockSize(blockBytes: number): Promise<void> {
    let opening = this.#openings.get(blockBytes);
    if (opening === undefined) {
      opening = (async () => {
        const memory = await this.#fetcher.openSlotFile(blockBytes);
        const file = await this.#options.fileSystem.open(
          `${this.#options.cacheFolder}/${slotFileName(blockBytes)}`,
          'read',
        );
        this.#store.addReader(new SlotReader(memory, file));
      })();
      this.#openings.set(blockBytes, opening);
      opening.catch(() => this.#openings.delete(blockBytes));
    }
    return opening;
  }

  async #handle(name: string): Promise<net.Server> {
    const known = this.#handles.get(name);
    if (known !== undefined) {
      this.#handles.delete(name);
      return known;
    }
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<net.Server>((resolve, reject) => {
        this.#handleWaiters.set(name, resolve);
        timer = setTimeout(
          () => reject(new CollectiveError('not-found', `no listening socket ${name} was handed over`)),
          HANDLE_WAIT_MS,
        );
      });
    } finally {
      clearTimeout(timer);
      this.#handleWaiters.delete(name);
    }
  }

  /** Nobody will take this socket: kept, it would accept clients and never answer them. */
  #refuseHandle(name: string): void {
    const server = this.#handles.get(name);
    if (server === undefined) this.#unwantedHandles.add(name);
    else server.close();
    this.#handles.delete(name);
  }

  #noteTrouble(digest: Digest, error: { readonly code: ErrorCode; readonly message: string }): void {
    this.#lastError = { at: Math.floor(Date.now() / 1000), code: error.code, message: error.message };
    this.#troubles.delete(digest);
    this.#troubles.set(digest, error.message);
    for (const oldest of this.#troubles.keys()) {
      if (this.#troubles.size <= TROUBLES_MAX) break;
      this.#troubles.delete(oldest);
    }
  }
}

const asUnavailable = (error: unknown): never => {
  if (error instanceof DOMException)
    throw new CollectiveError('block-unavailable', 'the blocks did not come in time', { cause: error });
  throw error;
};
