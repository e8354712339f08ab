/**
 * One life of blockd as far as reads go: the serving and the fetching thread's halves, as blockd and fetch-worker wire them, in
 * one thread, with messages that come late and in order. It ends with `kill` (nothing of it happens any more) or with `close`.
 */
import { CollectiveError } from '@collective/shared';
import {
  CachedStore,
  CacheWriter,
  FetchClient,
  FetchService,
  SlotReader,
  buildServingHalf,
  slotFileName,
  sumFaults,
  type FaultCounts,
  type BlockDevice,
  type ImageDevice,
  type ServingHalf,
} from '@collective/transceiver';
import type { Random } from './random.js';
import type { ReadImage } from './read-path-images.js';
import { ProcessClock, type SimulatedClock } from './simulated-clock.js';
import { SimulatedFileSystem } from './simulated-file-system.js';
import type { SimulatedDisk } from './simulated-disk.js';
import type { SimulatedNetwork } from './simulated-network.js';

export const CACHE_FOLDER = '/cache';
const EAGAIN = 11;

export type ReadPathOptions = {
  readonly cacheBytesMax: number;
  readonly reserveBytes: number;
  readonly refusedTryProbability: number;
  readonly useNowait: boolean;
  readonly waitMs: number;
  readonly messageDelayMs: number;
  readonly freeBytes: () => number;
};

export type ReadPathEvents = {
  readonly onUnavailable: (image: ReadImage, blockIndex: number) => void;
  readonly onArrived: (image: ReadImage, blockIndex: number) => void;
};

type World = {
  readonly random: Random;
  readonly clock: SimulatedClock;
  readonly disk: SimulatedDisk;
  readonly network: SimulatedNetwork;
};

export class ReadPathProcess {
  readonly #clock: ProcessClock;
  readonly #service: FetchService;
  readonly #client: FetchClient;
  readonly #store: CachedStore;
  readonly writer: CacheWriter;
  readonly #paths = new Map<ReadImage, ServingHalf>();
  /** Rejects when the process is killed. */
  readonly killed: Promise<never>;
  #reject: (error: Error) => void = () => undefined;

  private constructor(
    clock: ProcessClock,
    parts: { service: FetchService; client: FetchClient; store: CachedStore; writer: CacheWriter },
  ) {
    this.#clock = clock;
    this.#service = parts.service;
    this.#client = parts.client;
    this.#store = parts.store;
    this.writer = parts.writer;
    this.killed = new Promise<never>((_resolve, reject) => (this.#reject = reject));
    this.killed.catch(() => undefined);
  }

  static async open(
    world: World,
    images: readonly ReadImage[],
    options: ReadPathOptions,
    events: ReadPathEvents,
  ): Promise<ReadPathProcess> {
    const { random, network } = world;
    const clock = new ProcessClock(world.clock);
    const fileSystem = new SimulatedFileSystem(world.disk, random.fork(), options);
    const nowMs = (): number => 1_700_000_000_000 + clock.nowMs();
    const writer = await CacheWriter.open(fileSystem, CACHE_FOLDER, {
      cacheBytesMax: options.cacheBytesMax,
      reserveBytes: options.reserveBytes,
      nowMs,
      clock,
      freeBytes: () => Promise.resolve(options.freeBytes()),
    });
    const toService = lateChannel(clock, random.fork(), options.messageDelayMs);
    const toClient = lateChannel(clock, random.fork(), options.messageDelayMs);
    const jitter = random.fork();
    const nowait = random.fork();
    const service: FetchService = new FetchService(writer, {
      clock,
      openPool: network.openPool(clock),
      repository: { origin: 'http://repository', token: network.token },
      random: () => jitter.int(1000) / 1000,
      send: (messages) => toClient(() => client.receive(messages)),
      onClosed: () => undefined,
    });
    const client: FetchClient = new FetchClient((messages) => toService(() => service.receive(messages)), {
      // The agent logs in again, which takes a moment.
      onTokenRefused: () =>
        void clock.after(jitter.int(2_000), () =>
          client.setRepository({ origin: 'http://repository', token: network.token }),
        ),
    });
    const store = new CachedStore(client);
    const life = new ReadPathProcess(clock, { service, client, store, writer });
    for (const image of images) {
      const { blockBytes } = image.map;
      if (!store.hasReader(blockBytes)) {
        const memory = await client.openSlotFile(blockBytes);
        const file = await fileSystem.open(`${CACHE_FOLDER}/${slotFileName(blockBytes)}`, 'read');
        const reader = new SlotReader(memory, file, {
          nowMs,
          useNowait: options.useNowait,
          // The kernel's call begins to read what is not in memory, and serves it when that is through at once.
          readNowait: (target, byteOffset) =>
            file.tryRead(target, byteOffset) || (nowait.chance(0.1) && file.tryRead(target, byteOffset))
              ? target.length
              : -EAGAIN,
        });
        store.addReader(reader);
        life.#refreshEpochs(reader);
      }
      const path = await buildServingHalf(image.map, store, {
        name: image.name,
        waitMs: options.waitMs,
        placementTag: images.indexOf(image),
        clock,
        fileSystem,
        overlayFolder: undefined,
        onUnavailable: (blockIndex) => events.onUnavailable(image, blockIndex),
        onArrived: (blockIndex) => events.onArrived(image, blockIndex),
      });
      life.#paths.set(image, path);
    }
    return life;
  }

  get isDead(): boolean {
    return this.#clock.isDead;
  }

  path(image: ReadImage): { readonly top: BlockDevice; readonly image: ImageDevice } {
    const path = this.#paths.get(image);
    if (path === undefined) throw new Error(`${image.name} is not attached`);
    return path;
  }

  get faults(): FaultCounts {
    return sumFaults([this.#service.status.faults, this.#store.faults]);
  }

  get cacheCounters(): FetchService['status']['cache'] {
    return this.#service.status.cache;
  }

  networkIsBack(): void {
    this.#client.networkIsBack();
  }

  /** What is still going on, in words; undefined when nothing is. */
  get business(): string | undefined {
    const { queued, outstanding, flights } = this.#service.status;
    const waiting = [...this.#paths.values()].reduce((sum, { image }) => sum + image.waiting.length, 0);
    const parts = {
      queued: queued.demand + queued.trace + queued.hoard + queued.background,
      outstanding: outstanding.demand + outstanding.trace + outstanding.hoard + outstanding.background,
      flights,
      waiting,
      waiters: this.#service.waiterCount,
      messages: this.#client.pendingCount,
    };
    const busy = Object.entries(parts).filter(([, count]) => count !== 0);
    return busy.length === 0 ? undefined : busy.map(([name, count]) => `${count} ${name}`).join(', ');
  }

  /** kill -9, or the power is cut: the caller has done its part to the disk. */
  kill(): void {
    this.#clock.isDead = true;
    this.#reject(new CollectiveError('shutting-down', 'killed'));
  }

  async close(): Promise<void> {
    for (const { image } of this.#paths.values()) await image.close();
    await this.#client.close();
    await this.#store.close();
    this.#clock.isDead = true;
  }

  #refreshEpochs(reader: SlotReader): void {
    this.#clock.after(10_000, () => {
      reader.refreshEpoch();
      this.#refreshEpochs(reader);
    });
  }
}

/** Messages between threads: late, in order, and to nobody when the process is dead. */
const lateChannel = (clock: ProcessClock, random: Random, delayMaxMs: number): ((deliver: () => void) => void) => {
  let lastMs = 0;
  return (deliver) => {
    lastMs = Math.max(lastMs, clock.nowMs() + random.int(delayMaxMs + 1));
    clock.after(lastMs - clock.nowMs(), deliver);
  };
};
