/**
 * The block daemon's state: the cache, the fetching thread and the attached disks. It keeps nothing else: what is attached is
 * told anew by the supervisor after a restart. Longer than 400 lines, because every method of the control protocol is answered in one switch here: what a
 * method does is elsewhere.
 */
import { lstat, rm } from 'node:fs/promises';
import type net from 'node:net';
import { parse as parsePath } from 'node:path';
import { CollectiveError, encodeBootTrace, hasCode, isDigest, type Digest, type ErrorCode } from '@collective/shared';
import { SOFTWARE } from '../software.js';
import { replaceFileDurably, type FileSystem } from '../storage/file-system.js';
import { AttachedDisk, type AttachParams, type Listen } from './attached-disk.js';
import { AttachedDisks } from './attached-disks.js';
import { BaseThread } from './base/base-thread.js';
import { CachedStore } from './cache/cached-store.js';
import { DIGEST_BYTES } from './cache/block-list.js';
import { findMissing } from './cache/missing-blocks.js';
import type { CacheOptions } from './cache/cache-writer.js';
import { slotFileName } from './cache/slot-file.js';
import { SlotReader } from './cache/slot-reader.js';
import { TOUCH_EPOCH_MS } from './cache/touches.js';
import type { BlockdStatus, ControlEvent, ControlParams, ControlRequest } from './control/control-protocol.js';
import { ListeningHandles } from './control/listening-handles.js';
import { FaultCounters, faultOfRequest, sumFaults } from './faults.js';
import type { FetchClientEvents } from './fetch/fetch-client.js';
import { FetchThread } from './fetch/fetch-thread.js';
import type { FetchStatus } from './fetch/thread-messages.js';
import { hoardBlocks, prefetchBlocks, readDigests } from './hoard-blocks.js';
import { PrivateHalf } from './private/private-half.js';
import { encodeRequestRecording } from './request-recording-codec.js';
import { SessionRecordings } from './session-recordings.js';

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
/** Of nearly all published disks. */
const USUAL_BLOCK_BYTES = 65_536;

export class Blockd {
  readonly #options: BlockdOptions;
  readonly #fetcher: FetchThread;
  readonly #store: CachedStore;
  readonly #private: PrivateHalf;
  readonly #bases = new BaseThread();
  readonly #openings = new Map<number, Promise<void>>();
  readonly #disks = new AttachedDisks();
  readonly #recordings = new SessionRecordings();
  readonly #troubles = new Map<Digest, string>();
  /** Of this thread. */
  readonly #faults = new FaultCounters();
  readonly #handles = new ListeningHandles();
  readonly #epochTimer: NodeJS.Timeout;
  readonly #startedAt = Math.floor(Date.now() / 1000);
  #repository: string | null = null;
  #isMetered = false;
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
    // Half a second on a new machine, which the first attach need not wait for; what fails is tried again then.
    this.#openBlockSize(USUAL_BLOCK_BYTES).catch(() => undefined);
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
    return this.#disks.all.length;
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
        return { layer: await this.#disks.get(request.params).seal() };
      case 'view-open': {
        const { layer, listen } = request.params;
        return await this.#withHandle(listen, (take) =>
          this.#disks.get(request.params).openView(layer, listen, { listener: take }),
        );
      }
      case 'view-close':
        return { closed: await this.#disks.get(request.params).closeView(request.params.layer) };
      case 'changed-blocks': {
        const { layer, blockBytes, path, ...of } = request.params;
        return await this.#writeBlockNumbers(path, await this.#disks.get(of).changedBlocks(layer, blockBytes));
      }
      case 'rebase':
        return await this.#rebase(request.params);
      case 'wait':
        for (const disk of this.#disks.ofSession(request.params.session)) disk.setWaitMs(request.params.waitMs);
        return {};
      case 'warm':
        await this.#disks
          .get(request.params)
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
      case 'metered':
        this.#isMetered = request.params.metered;
        return {};
      case 'network-back':
        this.#fetcher.networkIsBack();
        this.#private.networkIsBack();
        return {};
      case 'trace-start':
        this.#disks.beginTraces(request.params.session);
        return {};
      case 'phase':
        for (const disk of this.#disks.ofSession(request.params.session)) disk.setPhase(request.params.phase);
        return {};
      case 'trace': {
        const { path, ...of } = request.params;
        const { trace } = this.#disks.get(of);
        if (trace === undefined) throw new CollectiveError('not-found', `${of.disk} has no trace`);
        await this.#writeAnswer(path, encodeBootTrace(trace));
        return { touches: trace.touches.length };
      }
      case 'missing': {
        const { blockBytes, path, answer } = request.params;
        await this.#openBlockSize(blockBytes);
        const { blocks, missing } = await findMissing(this.#options.fileSystem, path, this.#store.reader(blockBytes));
        if (answer !== undefined) await this.#writeAnswer(answer, missing);
        return { blocks, missing: missing.length / DIGEST_BYTES };
      }
      case 'prefetch': {
        const { blockBytes, path } = request.params;
        await this.#openBlockSize(blockBytes);
        const digests = await readDigests(this.#options.fileSystem, path);
        await prefetchBlocks(digests, { blockBytes, fetcher: this.#fetcher });
        return {};
      }
      case 'hoard': {
        const { blockBytes } = request.params;
        await this.#openBlockSize(blockBytes);
        await hoardBlocks(await readDigests(this.#options.fileSystem, request.params.path), {
          blockBytes,
          fetcher: this.#fetcher,
        });
        return {};
      }
      case 'release': {
        const { blockBytes } = request.params;
        await this.#openBlockSize(blockBytes);
        await this.#fetcher.pin(await readDigests(this.#options.fileSystem, request.params.path), {
          blockBytes,
          isPinned: false,
        });
        return {};
      }
      case 'scrub':
        await this.#private.client?.scrub(request.params);
        return await this.#fetcher.scrub(request.params);
      case 'touched-blocks': {
        const { path, blockBytes, ...of } = request.params;
        return await this.#writeBlockNumbers(path, await this.#disks.get(of).touchedBlocks(blockBytes));
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
      disks: this.#disks.all.map((disk) => disk.status((digest) => this.#troubles.get(digest))),
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
      // First: a disk that waits for a base is not waited for.
      const results: PromiseSettledResult<unknown>[] = await Promise.allSettled([this.#bases.close()]);
      results.push(
        ...(await Promise.allSettled(this.#disks.all.map((disk) => disk.close({ removeTemporary: false })))),
      );
      this.#handles.close();
      results.push(...(await Promise.allSettled([this.#bases.close()])));
      results.push(...(await Promise.allSettled([this.#private.close()])));
      results.push(...(await Promise.allSettled([this.#fetcher.close()])));
      results.push(...(await Promise.allSettled([this.#store.close()])));
      const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
      if (errors.length > 0) throw new AggregateError(errors, 'blockd did not close cleanly');
    })();
    return this.#closed;
  }

  #attach(params: AttachParams): Promise<{ readonly byteLength: number }> {
    return this.#withHandle(params.listen, async (listener) => {
      const { byteLength } = await this.#disks.attach(params, async () => {
        if (this.#closed !== undefined) throw new CollectiveError('shutting-down', 'blockd is shutting down');
        const attached = await this.#open(params, async (wanted) => {
          // Not before: it may be the one on which the disk is being attached now.
          if ('path' in wanted) await removeSocket(wanted.path);
          return await listener(wanted);
        });
        attached.record(this.#recordings.of(params.session));
        return attached;
      });
      return { byteLength };
    });
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
      openBase: (folder, digest) => this.#bases.open(folder, digest),
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
      isMetered: () => this.#isMetered,
      onHintFailed: (error) => console.error(`blockd: ${session}/${disk}:`, error),
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

  async #writeBlockNumbers(path: string, blocks: Uint32Array): Promise<object> {
    const bytes = Buffer.alloc(blocks.length * 4);
    blocks.forEach((block, at) => bytes.writeUInt32LE(block, at * 4));
    await this.#writeAnswer(path, bytes);
    return { blocks: blocks.length };
  }

  async #rebase({ session, disk, layer, base, blockKeys }: ControlParams<'rebase'>): Promise<object> {
    if (!isDigest(base)) throw new CollectiveError('bad-request', `${base} is no digest`);
    if (blockKeys !== undefined) this.#private.addKeys(blockKeys);
    await this.#disks.get({ session, disk }).rebase(layer, base);
    return {};
  }

  #startRecording(session: string): void {
    const recording = this.#recordings.start(session);
    for (const disk of this.#disks.ofSession(session)) disk.record(recording);
  }

  async #stopRecording({ session, path }: ControlParams<'recording-stop'>): Promise<object> {
    const recording = this.#recordings.take(session);
    for (const disk of this.#disks.ofSession(session)) disk.record(undefined);
    const file = recording.stop();
    await this.#writeAnswer(path, encodeRequestRecording(file));
    return { requests: file.requests.length, truncated: file.truncated };
  }

  /** What is too long for the control socket. */
  async #writeAnswer(path: string, bytes: Uint8Array): Promise<void> {
    const { dir, base } = parsePath(path);
    await replaceFileDurably(this.#options.fileSystem, { folder: dir, name: base }, bytes);
  }

  async #detach({ session, disk, keep }: ControlParams<'detach'>): Promise<number> {
    const options = { removeTemporary: keep !== true };
    if (disk === undefined) return await this.#disks.detachSession(session, options);
    await this.#disks.detach({ session, disk }, options);
    return 1;
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
