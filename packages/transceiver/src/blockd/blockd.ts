/**
 * The block daemon's state: the cache, the fetching thread and the attached disks. It keeps nothing else: what is attached is
 * told anew by the supervisor after a restart.
 */
import { lstat, rm } from 'node:fs/promises';
import type net from 'node:net';
import { parse as parsePath } from 'node:path';
import { CollectiveError, hasCode, isDigest, type Digest, type ErrorCode } from '@collective/shared';
import { SOFTWARE } from '../software.js';
import { replaceFileDurably, type FileSystem } from '../storage/file-system.js';
import { AttachedDisk, type AttachParams, type Listen } from './attached-disk.js';
import { openBaseInThread } from './base/base-thread.js';
import { CachedStore } from './cache/cached-store.js';
import { countMissing } from './cache/missing-blocks.js';
import type { CacheOptions } from './cache/cache-writer.js';
import { slotFileName } from './cache/slot-file.js';
import { SlotReader } from './cache/slot-reader.js';
import { TOUCH_EPOCH_MS } from './cache/touches.js';
import { systemClock } from './clock.js';
import type { BlockdStatus, ControlEvent, ControlParams, ControlRequest } from './control/control-protocol.js';
import { ListeningHandles } from './control/listening-handles.js';
import { DiskTurns } from './disk-turns.js';
import { FaultCounters, faultOfRequest, sumFaults } from './faults.js';
import type { FetchClientEvents } from './fetch/fetch-client.js';
import { FetchThread } from './fetch/fetch-thread.js';
import type { FetchStatus } from './fetch/thread-messages.js';
import { PrivateHalf } from './private/private-half.js';
import { encodeRequestRecording } from './request-recording-codec.js';
import { RequestRecording } from './request-recording.js';

export type BlockdOptions = {
  readonly fileSystem: FileSystem;
  readonly cacheFolder: string;
  readonly cache: CacheOptions;
  /** The same for blocks of a person's own disks. */
  readonly privateFolder: string;
  readonly privateCache: CacheOptions;
  readonly onEvent: (event: ControlEvent) => void;
  /** The fetching thread has died: the process has to end, so that it is started anew. */
  readonly onDeath: (error: Error) => void;
};

/** Reasons that are remembered for blocks that have not come. */
const TROUBLES_MAX = 4096;
const WARM_TIMEOUT_MS = 30_000;
/** Recordings under way at a time; each holds up to 2^20 requests in memory. */
const RECORDINGS_MAX = 4;

export class Blockd {
  readonly #options: BlockdOptions;
  readonly #fetcher: FetchThread;
  readonly #store: CachedStore;
  readonly #private: PrivateHalf;
  readonly #openings = new Map<number, Promise<void>>();
  readonly #disks = new Map<string, AttachedDisk>();
  readonly #turns = new DiskTurns();
  /** By session. */
  readonly #recordings = new Map<string, RequestRecording>();
  readonly #troubles = new Map<Digest, string>();
  /** Of this thread. */
  readonly #faults = new FaultCounters();
  readonly #handles = new ListeningHandles();
  readonly #epochTimer: NodeJS.Timeout;
  readonly #startedAt = Math.floor(Date.now() / 1000);
  #repository: string | null = null;
  #lastError: BlockdStatus['lastError'] = null;
  #closed: Promise<void> | undefined;

  /** Starts the fetching thread. The caller holds the lock of the cache. */
  constructor(options: BlockdOptions) {
    this.#options = options;
    const events: FetchClientEvents = {
      onTrouble: (digest, error) => this.#noteTrouble(digest, error),
      onTokenRefused: () => options.onEvent({ event: 'token-refused' }),
    };
    this.#fetcher = new FetchThread(
      { cacheFolder: options.cacheFolder, cache: options.cache, repository: undefined },
      { ...events, onDeath: options.onDeath },
    );
    this.#store = new CachedStore(this.#fetcher);
    this.#private = new PrivateHalf({
      fileSystem: options.fileSystem,
      folder: options.privateFolder,
      cache: options.privateCache,
      events,
      open: (data, of) => this.#fetcher.openPrivate(data, of),
    });
    this.#epochTimer = setInterval(() => {
      for (const store of [this.#store, this.#private.store])
        for (const reader of store?.readers ?? []) reader.refreshEpoch();
    }, TOUCH_EPOCH_MS);
    this.#epochTimer.unref();
  }

  get diskCount(): number {
    return this.#disks.size;
  }

  /** A listening socket from the parent process. */
  takeHandle(name: string, server: net.Server): void {
    this.#handles.give(name, server);
  }

  /** The parent process has died: no socket comes from it any more. */
  parentIsGone(): void {
    this.#handles.senderIsGone();
  }

  /** Answers all requests but `events` and `shutdown`, which belong to the process. */
  async handle(request: Exclude<ControlRequest, { method: 'events' | 'shutdown' }>): Promise<object> {
    if (this.#closed !== undefined) throw new CollectiveError('shutting-down', 'blockd is shutting down');
    switch (request.method) {
      case 'hello':
        return { protocol: 1, pid: process.pid, startedAt: this.#startedAt, software: SOFTWARE };
      case 'attach':
        return await this.#attach(request.params);
      case 'detach':
        return { detached: await this.#detach(request.params) };
      case 'keys':
        this.#private.addKeys(request.params.blockKeys);
        return {};
      case 'seal':
        return { layer: await this.#disk(request.params).seal() };
      case 'view-open': {
        const { layer, listen } = request.params;
        return await this.#withHandle(listen, (take) =>
          this.#disk(request.params).openView(layer, listen, { listener: take }),
        );
      }
      case 'view-close':
        return { closed: await this.#disk(request.params).closeView(request.params.layer) };
      case 'changed-blocks':
        return await this.#changedBlocks(request.params);
      case 'rebase':
        return await this.#rebase(request.params);
      case 'wait':
        for (const disk of this.#disksOf(request.params.session)) disk.setWaitMs(request.params.waitMs);
        return {};
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
        this.#private.setRepository({ origin, pin, token });
        return {};
      }
      case 'network-back':
        this.#fetcher.networkIsBack();
        this.#private.networkIsBack();
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
      case 'missing': {
        const { blockBytes, path } = request.params;
        await this.#openBlockSize(blockBytes);
        return await countMissing(this.#options.fileSystem, path, this.#store.reader(blockBytes));
      }
      case 'scrub':
        await this.#private.client?.scrub(request.params);
        return await this.#fetcher.scrub(request.params);
      case 'touched-blocks': {
        const { path, blockBytes, ...of } = request.params;
        const blocks = await this.#disk(of).touchedBlocks(blockBytes);
        const { dir, base } = parsePath(path);
        const bytes = Buffer.alloc(blocks.length * 4);
        blocks.forEach((block, at) => bytes.writeUInt32LE(block, at * 4));
        await replaceFileDurably(this.#options.fileSystem, { folder: dir, name: base }, bytes);
        return { blocks: blocks.length };
      }
      case 'recording-start':
        this.#startRecording(request.params.session);
        return {};
      case 'recording-stop':
        return await this.#stopRecording(request.params);
      default:
        return request satisfies never;
    }
  }

  async status(): Promise<BlockdStatus> {
    const [publicStatus, privateStatus] = await Promise.all([this.#fetcher.status(), this.#private.status()]);
    const privateStore = this.#private.store;
    const ofPrivate =
      privateStatus === undefined || privateStore === undefined ? undefined : partOf(privateStatus, privateStore);
    return {
      pid: process.pid,
      startedAt: this.#startedAt,
      repository: this.#repository,
      disks: [...this.#disks.values()].map((disk) => disk.status((digest) => this.#troubles.get(digest))),
      ...partOf(publicStatus, this.#store),
      private: ofPrivate ?? null,
      faults: sumFaults([
        publicStatus.faults,
        this.#faults.counts,
        this.#store.faults,
        privateStatus?.faults ?? {},
        privateStore?.faults ?? {},
      ]),
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
      this.#handles.close();
      results.push(...(await Promise.allSettled([this.#private.close()])));
      results.push(...(await Promise.allSettled([this.#fetcher.close()])));
      results.push(...(await Promise.allSettled([this.#store.close()])));
      const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
      if (errors.length > 0) throw new AggregateError(errors, 'blockd did not close cleanly');
    })();
    return this.#closed;
  }

  #attach(params: AttachParams): Promise<{ readonly byteLength: number }> {
    const { session, disk, listen } = params;
    const key = `${session}/${disk}`;
    return this.#turns.take(key, () =>
      this.#withHandle(listen, async (listener) => {
        if (this.#closed !== undefined) throw new CollectiveError('shutting-down', 'blockd is shutting down');
        if (this.#disks.has(key)) throw new CollectiveError('exists', `${key} is attached already`);
        const attached = await this.#open(params, async (wanted) => {
          // Not before: it may be the one on which the disk is being attached now.
          if ('path' in wanted) await removeSocket(wanted.path);
          return await listener(wanted);
        });
        attached.record(this.#recordings.get(session));
        this.#disks.set(key, attached);
        return { byteLength: attached.byteLength };
      }),
    );
  }

  async #open(params: AttachParams, listener: TakeListener): Promise<AttachedDisk> {
    const { session, disk, overlay } = params;
    const { onEvent, fileSystem } = this.#options;
    if (params.blockKeys !== undefined) this.#private.addKeys(params.blockKeys);
    const diskKey = params.diskKey ?? (overlay?.mode === 'persistent' ? overlay.key : undefined);
    const attached: AttachedDisk = await AttachedDisk.open(params, {
      fileSystem,
      store: this.#store,
      openBlockSize: (blockBytes) => this.#openBlockSize(blockBytes),
      openBase: (folder, digest) => openBaseInThread(folder, digest),
      usePrivate: (base) =>
        this.#private.use(base, diskKey === undefined ? undefined : Buffer.from(diskKey, 'base64url')),
      listener,
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
        const fault = faultOfRequest(error);
        if (fault !== undefined) this.#faults.count(fault);
        if (hasCode(error, 'disk-full')) onEvent({ event: 'disk-full', session, disk, message: error.message });
        else if (!hasCode(error, 'block-unavailable')) console.error(`blockd: ${session}/${disk}:`, error);
      },
    });
    return attached;
  }

  /** A listening socket that was named and is not taken, because the work failed before, is refused. */
  async #withHandle<T>(listen: Listen, work: (take: TakeListener) => Promise<T>): Promise<T> {
    let isTaken = !('handle' in listen);
    try {
      return await work(async (wanted) => {
        isTaken = true;
        return 'handle' in wanted ? { server: await this.#handles.take(wanted.handle) } : wanted;
      });
    } catch (error) {
      if (!isTaken && 'handle' in listen) this.#handles.refuse(listen.handle);
      throw error;
    }
  }

  async #changedBlocks({ session, disk, layer, blockBytes, path }: ControlParams<'changed-blocks'>): Promise<object> {
    const blocks = await this.#disk({ session, disk }).changedBlocks(layer, blockBytes);
    const bytes = Buffer.alloc(blocks.length * 4);
    blocks.forEach((block, at) => bytes.writeUInt32LE(block, at * 4));
    const { dir, base } = parsePath(path);
    await replaceFileDurably(this.#options.fileSystem, { folder: dir, name: base }, bytes);
    return { blocks: blocks.length };
  }

  async #rebase({ session, disk, layer, base, blockKeys }: ControlParams<'rebase'>): Promise<object> {
    if (!isDigest(base)) throw new CollectiveError('bad-request', `${base} is no digest`);
    if (blockKeys !== undefined) this.#private.addKeys(blockKeys);
    await this.#disk({ session, disk }).rebase(layer, base);
    return {};
  }

  #startRecording(session: string): void {
    if (this.#recordings.has(session)) throw new CollectiveError('exists', `${session} is being recorded already`);
    if (this.#recordings.size >= RECORDINGS_MAX)
      throw new CollectiveError('in-use', `${RECORDINGS_MAX} sessions are being recorded already`);
    const recording = new RequestRecording(systemClock);
    this.#recordings.set(session, recording);
    for (const disk of this.#disksOf(session)) disk.record(recording);
  }

  async #stopRecording({ session, path }: { readonly session: string; readonly path: string }): Promise<object> {
    const recording = this.#recordings.get(session);
    if (recording === undefined) throw new CollectiveError('not-found', `${session} is not being recorded`);
    this.#recordings.delete(session);
    for (const disk of this.#disksOf(session)) disk.record(undefined);
    const file = recording.stop();
    const { dir, base } = parsePath(path);
    await replaceFileDurably(this.#options.fileSystem, { folder: dir, name: base }, encodeRequestRecording(file));
    return { requests: file.requests.length, truncated: file.truncated };
  }

  async #detach({ session, disk, keep }: ControlParams<'detach'>): Promise<number> {
    const detachOne = async (each: AttachedDisk): Promise<void> => {
      try {
        await each.close({ removeTemporary: keep !== true });
      } finally {
        this.#disks.delete(`${each.session}/${each.disk}`);
      }
    };
    if (disk !== undefined) {
      // One that is being attached, for a supervisor that has died or given up waiting, say, is detached when it is there.
      await this.#turns.take(`${session}/${disk}`, () => detachOne(this.#disk({ session, disk })));
      return 1;
    }
    // Those that are being attached too, as above.
    const keys = new Set(
      [...this.#disks.keys(), ...this.#turns.underWay].filter((key) => key.startsWith(`${session}/`)),
    );
    let detached = 0;
    const results = await Promise.allSettled(
      [...keys].map((key) =>
        this.#turns.take(key, async () => {
          const attached = this.#disks.get(key);
          if (attached === undefined) return;
          detached += 1;
          await detachOne(attached);
        }),
      ),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    return detached;
  }

  #disksOf(session: string): AttachedDisk[] {
    return [...this.#disks.values()].filter((disk) => disk.session === session);
  }

  #disk({ session, disk }: { readonly session: string; readonly disk: string }): AttachedDisk {
    const attached = this.#disks.get(`${session}/${disk}`);
    if (attached === undefined)
      throw new CollectiveError('not-found', `${session}/${disk} is not attached`, { data: { isAttached: false } });
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

/** Of somebody who is gone. Anything else that is there stays, and is in the way. */
const removeSocket = async (path: string): Promise<void> => {
  const found = await lstat(path).catch(() => undefined);
  if (found?.isSocket() === true) await rm(path, { force: true });
};

type TakeListener = (
  listen: Listen,
) => Promise<{ readonly path: string } | { readonly fd: number } | { readonly server: net.Server }>;

/** The status of one of the two caches with what fetches for it. */
const partOf = (
  { cache, faults: _faults, scrub, ...fetch }: FetchStatus,
  store: CachedStore,
): Pick<BlockdStatus, 'cache' | 'fetch' | 'scrub'> => {
  let verified = 0;
  let damaged = 0;
  for (const { counters } of store.readers) {
    verified += counters.verified;
    damaged += counters.damaged;
  }
  return { cache: { ...cache, ...store.counters, verified, damaged }, fetch, scrub: scrub ?? null };
};

const asUnavailable = (error: unknown): never => {
  if (error instanceof DOMException)
    throw new CollectiveError('block-unavailable', 'the blocks did not come in time', { cause: error });
  throw error;
};
