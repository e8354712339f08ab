/**
 * The whole block path, on one screen. The halves run in two threads; between them lie the cache file, the shared arrays
 * and the messages of fetch/thread-messages.ts.
 *
 *   QEMU ─ NBD session ─ overlay ─ recorder ─ image ─ cached ┊ filling ─ single-flight ─ retrying ─ verifying ─ scheduling ─ HTTP
 *          (writes stop here ┘)              └ map: offset → digest                                  (peers and mirrors join here ┘)
 */
import type { DiskMap } from '@collective/shared';
import type { FileSystem } from '../storage/file-system.js';
import type { CachedStore } from './cache/cached-store.js';
import type { CacheWriter } from './cache/cache-writer.js';
import { systemClock } from './clock.js';
import { FillingStore } from './fetch/filling-store.js';
import { HttpStore, type HttpStoreOptions, type Repository } from './fetch/http-store.js';
import { RetryingStore, type RetryingStoreOptions } from './fetch/retrying-store.js';
import { bulkOutstandingMax } from './fetch/scheduler-plan.js';
import { SchedulingStore } from './fetch/scheduling-store.js';
import { SingleFlightStore } from './fetch/single-flight-store.js';
import { VerifyingStore } from './fetch/verifying-store.js';
import { ImageDevice, type ImageDeviceOptions } from './image-device.js';
import { Overlay } from './overlay/overlay.js';
import { Recorder } from './recorder.js';

export type FetchingHalfOptions = HttpStoreOptions & {
  readonly onFailure: NonNullable<RetryingStoreOptions['onFailure']>;
};

/** The fetching thread's half, from the line up. */
export const buildFetchingHalf = (cache: CacheWriter, repository: Repository, options: FetchingHalfOptions) => {
  const http = new HttpStore(repository, options);
  const scheduling = new SchedulingStore(http, () => bulkOutstandingMax(options.meter.line));
  const verifying = new VerifyingStore(scheduling);
  const retrying = new RetryingStore(verifying, { clock: systemClock, onFailure: options.onFailure });
  const singleFlight = new SingleFlightStore(retrying);
  const filling = new FillingStore(singleFlight, cache);
  return { filling, singleFlight, retrying, verifying, scheduling, http };
};

export type FetchingHalf = ReturnType<typeof buildFetchingHalf>;

/** The serving thread's half for one disk, from the image up. `overlayFolder` puts the writable layers on top; without it the disk is read-only. */
export const buildServingHalf = async (
  map: DiskMap,
  store: CachedStore,
  options: ImageDeviceOptions & { readonly fileSystem: FileSystem; readonly overlayFolder: string | undefined },
) => {
  const image = new ImageDevice(map, store, options);
  const recorder = new Recorder(image, { blockBytes: map.blockBytes, clock: options.clock ?? systemClock });
  const overlay =
    options.overlayFolder === undefined
      ? undefined
      : await Overlay.open(options.fileSystem, options.overlayFolder, recorder);
  return { top: overlay ?? recorder, overlay, recorder, image };
};

export type ServingHalf = Awaited<ReturnType<typeof buildServingHalf>>;
