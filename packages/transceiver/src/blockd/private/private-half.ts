/**
 * Private blocks in the serving thread: one cache and one fetching service for all disks of the person, opened when the first disk with private
 * blocks is attached, because only then the keys are there. Each base that a disk uses is told to the service, and taken back when none does.
 */
import { CollectiveError, type Digest } from '@collective/shared';
import type { OpenedBase } from '../base/open-base.js';
import type { FileSystem } from '../../storage/file-system.js';
import { CachedStore } from '../cache/cached-store.js';
import type { CacheOptions } from '../cache/cache-writer.js';
import { slotFileName } from '../cache/slot-file.js';
import { SlotReader } from '../cache/slot-reader.js';
import type { FetchClient, FetchClientEvents } from '../fetch/fetch-client.js';
import type { Repository } from '../fetch/http-line.js';
import type { FetchStatus, OpenPrivate } from '../fetch/thread-messages.js';
import { BlockKeyRing, type BlockKeys } from './block-key-ring.js';
import { PrivateCacheKeys } from './private-cache-keys.js';

export type PrivateHalfOptions = {
  readonly fileSystem: FileSystem;
  readonly folder: string;
  readonly cache: CacheOptions;
  readonly events: FetchClientEvents;
  /** FetchThread.openPrivate. */
  readonly open: (data: Omit<OpenPrivate, 'kind' | 'port'>, events: FetchClientEvents) => Promise<FetchClient>;
};

/** What a disk has of it, until it gives it back. */
export type PrivateUse = {
  readonly store: CachedStore;
  /** For BlockRequest.source. */
  readonly source: string;
  /** As FetchClient.fill. */
  readonly fill: FetchClient['fill'];
  /** Idempotent. */
  readonly release: () => void;
};

/** Opened with one disk key. */
type Opened = {
  readonly check: string;
  readonly keys: PrivateCacheKeys;
  readonly client: FetchClient;
  readonly store: CachedStore;
  readonly openings: Map<number, Promise<void>>;
};

export class PrivateHalf {
  readonly #options: PrivateHalfOptions;
  readonly #ring = new BlockKeyRing();
  /** How many disks use a base, by its digest. */
  readonly #uses = new Map<Digest, number>();
  #repository: Repository | undefined;
  #opened: Opened | undefined;
  /** Openings and closings come one after the other. */
  #last: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  constructor(options: PrivateHalfOptions) {
    this.#options = options;
  }

  /** Undefined while nothing of it is open. */
  get store(): CachedStore | undefined {
    return this.#opened?.store;
  }

  addKeys(blockKeys: BlockKeys): void {
    this.#ring.add(blockKeys);
    this.#opened?.client.addKeys(blockKeys);
  }

  setRepository(repository: Repository): void {
    this.#repository = repository;
    this.#opened?.client.setRepository(repository);
  }

  networkIsBack(): void {
    this.#opened?.client.networkIsBack();
  }

  async status(): Promise<FetchStatus | undefined> {
    return await this.#opened?.client.status();
  }

  get client(): FetchClient | undefined {
    return this.#opened?.client;
  }

  /**
   * For a disk whose base has private blocks. `diskKey` (64 bytes): the cache is encrypted with it; undefined: whatever it is open with. Errors:
   * `wrong-key` (no disk key, or no keys of blocks), `in-use` (disks with another disk key are attached), `disk-full`, `local-io`, `shutting-down`.
   */
  use(base: OpenedBase, diskKey: Uint8Array | undefined): Promise<PrivateUse> {
    const use = this.#last.then(() => this.#use(base, diskKey));
    this.#last = use.catch(() => undefined);
    return use;
  }

  /** Closes the service, then the cache. Idempotent. */
  close(): Promise<void> {
    this.#isClosed = true;
    const closed = this.#last.then(() => this.#closeOpened());
    this.#last = closed.catch(() => undefined);
    return closed;
  }

  async #use(base: OpenedBase, diskKey: Uint8Array | undefined): Promise<PrivateUse> {
    if (this.#isClosed) throw new CollectiveError('shutting-down', 'blockd is shutting down');
    if (this.#ring.isEmpty)
      throw missingKey(`base ${base.digest} has private blocks, and no keys of blocks were given`);
    const opened = await this.#open(diskKey);
    await this.#openBlockSize(opened, base.blockBytes);
    const { digest, file } = base;
    const count = this.#uses.get(digest) ?? 0;
    this.#uses.set(digest, count + 1);
    if (count === 0) opened.client.setSource(digest, { subscription: file.subscription, objects: file.objects });
    let isReleased = false;
    return {
      store: opened.store,
      source: digest,
      fill: (request, block) => opened.client.fill(request, block),
      release: () => {
        if (isReleased) return;
        isReleased = true;
        this.#release(digest);
      },
    };
  }

  #release(digest: Digest): void {
    const left = (this.#uses.get(digest) ?? 1) - 1;
    if (left > 0) {
      this.#uses.set(digest, left);
      return;
    }
    this.#uses.delete(digest);
    if (!this.#isClosed) this.#opened?.client.setSource(digest, undefined);
  }

  async #open(diskKey: Uint8Array | undefined): Promise<Opened> {
    if (diskKey === undefined) {
      if (this.#opened !== undefined) return this.#opened;
      throw missingKey('a disk with private blocks needs the disk key, with which their cache is encrypted');
    }
    const keys = new PrivateCacheKeys(diskKey);
    if (this.#opened?.check === keys.check) return this.#opened;
    if (this.#uses.size > 0)
      throw new CollectiveError('in-use', 'disks of another person are attached: the private cache has one disk key');
    await this.#closeOpened();
    const { open, folder, cache, events } = this.#options;
    const secrets = { diskKey: Buffer.from(diskKey).toString('base64url'), blockKeys: this.#ring.keys };
    const client = await open({ folder, cache, secrets, repository: this.#repository }, events);
    // What was told meanwhile.
    client.addKeys(this.#ring.keys);
    if (this.#repository !== undefined) client.setRepository(this.#repository);
    this.#opened = { check: keys.check, keys, client, store: new CachedStore(client), openings: new Map() };
    return this.#opened;
  }

  #openBlockSize({ client, store, keys, openings }: Opened, blockBytes: number): Promise<void> {
    let opening = openings.get(blockBytes);
    if (opening === undefined) {
      opening = (async () => {
        const memory = await client.openSlotFile(blockBytes);
        const { fileSystem, folder } = this.#options;
        const file = await fileSystem.open(`${folder}/${slotFileName(blockBytes)}`, 'read');
        store.addReader(new SlotReader(memory, file, { cipher: keys.cipherOf(blockBytes), naming: this.#ring }));
      })();
      openings.set(blockBytes, opening);
      opening.catch(() => openings.delete(blockBytes));
    }
    return opening;
  }

  async #closeOpened(): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    if (opened === undefined) return;
    const results = [...(await Promise.allSettled([opened.client.close()]))];
    results.push(...(await Promise.allSettled([opened.store.close()])));
    const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
    if (errors.length > 0) throw new AggregateError(errors, 'the private cache could not be closed');
  }
}

const missingKey = (message: string): CollectiveError =>
  new CollectiveError('wrong-key', message, { data: { reason: 'missing' } });
