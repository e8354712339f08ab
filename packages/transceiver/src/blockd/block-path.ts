/**
 * The whole block path, on one screen. The halves run in two threads; between them lie the cache file, the shared arrays
 * and the messages of fetch/thread-messages.ts.
 *
 *   QEMU ─ NBD session ─ overlay ─ recorder ─ image ─ cached ┊ filling ─ single-flight ─ retrying ─ verifying ─ scheduling ─ HTTP
 *          (writes stop here ┘)              └ map: offset → digest                       └ boot objects ──┘ (peers and mirrors join here ┘)
 *
 * A disk over a snapshot has two images (snapshot-device.ts), of which the private one goes the same way through a cache, a chain and a
 * store of its own: … image ─ cached ┊ filling ─ single-flight ─ retrying ─ verifying (decrypts) ─ scheduling ─ snapshot objects by Range
 */
import type { DiskMap } from '@collective/shared';
import type { FileSystem } from '../storage/file-system.js';
import type { CachedStore } from './cache/cached-store.js';
import type { CacheWriter } from './cache/cache-writer.js';
import { systemClock } from './clock.js';
import type { FaultCounters } from './faults.js';
import { BootObjectStore } from './fetch/boot-object-store.js';
import { FaultCountingStore } from './fetch/fault-counting-store.js';
import { FillingStore } from './fetch/filling-store.js';
import type { HttpLineOptions, Repository } from './fetch/http-line.js';
import { HttpStore } from './fetch/http-store.js';
import { RetryingStore, type RetryingStoreOptions } from './fetch/retrying-store.js';
import { SchedulingStore } from './fetch/scheduling-store.js';
import { SingleFlightStore } from './fetch/single-flight-store.js';
import { VerifyingStore, type ChunkDecoder } from './fetch/verifying-store.js';
import type { BlockStore, ChunkStore } from './block-store.js';
import { ImageDevice, type ImageDeviceOptions } from './image-device.js';
import { Overlay } from './overlay/overlay.js';
import type { BlockKeyRing } from './private/block-key-ring.js';
import { privateDecoder } from './private/private-decoder.js';
import { SnapshotStore } from './private/snapshot-store.js';
import { Recorder } from './recorder.js';

export type FetchingHalfOptions = HttpLineOptions & {
  readonly onFailure: NonNullable<RetryingStoreOptions['onFailure']>;
  readonly faults: FaultCounters;
  readonly random?: () => number;
};

/** The fetching thread's half of public blocks, from the line up. */
export const buildFetchingHalf = (cache: CacheWriter, repository: Repository, options: FetchingHalfOptions) => {
  const source = buildPublicSource(repository, options);
  return { ...source, filling: new FillingStore(source.singleFlight, cache) };
};

/** The same without a cache: whole blocks of published disks, verified, each fetched once however many ask for it. */
export const buildPublicSource = (repository: Repository, options: FetchingHalfOptions) => {
  const http = new HttpStore(repository, options);
  const { scheduling, verifying, counting } = buildAboveLine(http, options);
  const objects = new BootObjectStore(counting, {
    scheduling,
    chunks: http,
    line: () => options.meter.line,
    faults: options.faults,
  });
  return { http, scheduling, verifying, ...buildPatience(objects, options) };
};

/** The same of private blocks. `ring` may get more keys later. */
export const buildPrivateFetchingHalf = (
  cache: CacheWriter,
  repository: Repository,
  options: FetchingHalfOptions & { readonly ring: BlockKeyRing },
) => {
  const { ring } = options;
  const http = new SnapshotStore(repository, options);
  const { scheduling, verifying, counting } = buildAboveLine(http, options, privateDecoder(ring));
  const patient = buildPatience(counting, options);
  return { http, ring, scheduling, verifying, ...patient, filling: new FillingStore(patient.singleFlight, cache) };
};

const buildAboveLine = (line: ChunkStore, options: FetchingHalfOptions, decode?: ChunkDecoder) => {
  const scheduling = new SchedulingStore(line, () => options.meter.line, options.clock);
  const verifying = new VerifyingStore(scheduling, decode);
  const counting = new FaultCountingStore(verifying, options.faults);
  return { scheduling, verifying, counting };
};

const buildPatience = (attempts: BlockStore, options: FetchingHalfOptions) => {
  const retrying = new RetryingStore(attempts, { clock: systemClock, ...options });
  return { retrying, singleFlight: new SingleFlightStore(retrying) };
};

export type FetchingHalf = ReturnType<typeof buildFetchingHalf>;
export type PrivateFetchingHalf = ReturnType<typeof buildPrivateFetchingHalf>;

/** The serving thread's half of a published disk, below the layers. */
export const buildPublicHalf = (map: DiskMap, store: CachedStore, options: ImageDeviceOptions) => {
  const image = new ImageDevice(map, store, options);
  const recorder = new Recorder(image, { blockBytes: map.blockBytes, clock: options.clock ?? systemClock });
  return { image, recorder };
};

/** The same with what lies above it, from the image up. `overlayFolder` puts the writable layers on top, encrypted with `overlayKey`; without it the disk is read-only. */
export const buildServingHalf = async (
  map: DiskMap,
  store: CachedStore,
  options: ImageDeviceOptions & {
    readonly fileSystem: FileSystem;
    readonly overlayFolder: string | undefined;
    readonly overlayKey?: Uint8Array | undefined;
  },
) => {
  const { image, recorder } = buildPublicHalf(map, store, options);
  const overlay =
    options.overlayFolder === undefined
      ? undefined
      : await Overlay.open(options.fileSystem, options.overlayFolder, recorder, { key: options.overlayKey });
  return { top: overlay ?? recorder, overlay, recorder, image };
};

export type ServingHalf = Awaited<ReturnType<typeof buildServingHalf>>;
