/**
 * The fetching thread. Started by FetchThread, speaks thread-messages.ts with it and ends when told to.
 *
 * Private blocks have a second service here, with a cache and a port of its own, and no thread: zstd has one static context a process
 * (shared/src/zstd.ts), so one thread decompresses everything.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { CacheWriter } from '../cache/cache-writer.js';
import { Scrubber } from '../cache/scrubber.js';
import { BlockKeyRing } from '../private/block-key-ring.js';
import { preparePrivateCache, PrivateCacheKeys } from '../private/private-cache-keys.js';
import { FetchService } from './fetch-service.js';
import {
  sentError,
  type FetchWorkerData,
  type OpenPrivate,
  type PrivateOpened,
  type ToFetcher,
} from './thread-messages.js';

const fileSystem = new LocalFileSystem();

const openPrivate = async ({ port, folder, cache, secrets, repository }: OpenPrivate): Promise<void> => {
  const say = (message: PrivateOpened): void => port.postMessage(message);
  try {
    const keys = new PrivateCacheKeys(Buffer.from(secrets.diskKey, 'base64url'));
    await preparePrivateCache(fileSystem, folder, keys);
    const ring = new BlockKeyRing(secrets.blockKeys);
    const writer = await CacheWriter.open(fileSystem, folder, {
      ...cache,
      cipherOf: (blockBytes) => keys.cipherOf(blockBytes),
    });
    const scrubber = await Scrubber.open({
      fileSystem,
      folder,
      cache: writer,
      secrets: () => ({ diskKey: secrets.diskKey, blockKeys: ring.keys }),
    });
    const service = new FetchService(writer, {
      repository,
      ring,
      scrubber,
      send: (messages, transfer) => port.postMessage(messages, transfer),
      onClosed: () => port.close(),
    });
    say({ kind: 'ready' });
    port.on('message', (messages: readonly ToFetcher[]) => service.receive(messages));
  } catch (error) {
    say({ kind: 'failed', error: sentError(error) });
    port.close();
  }
};

const parent = parentPort;
if (parent !== null) {
  const { cacheFolder, cache, repository } = workerData as FetchWorkerData;
  const writer = await CacheWriter.open(fileSystem, cacheFolder, cache);
  const scrubber = await Scrubber.open({ fileSystem, folder: cacheFolder, cache: writer });
  const service = new FetchService(writer, {
    repository,
    scrubber,
    send: (messages, transfer) => parent.postMessage(messages, transfer),
    // Closed last, which ends the thread.
    onClosed: () => parent.close(),
  });
  parent.on('message', (message: readonly ToFetcher[] | OpenPrivate) => {
    if ('kind' in message) void openPrivate(message);
    else service.receive(message);
  });
}
