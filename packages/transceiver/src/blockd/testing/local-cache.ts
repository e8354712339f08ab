/** The whole block path below the image in one thread: cache files in a folder, with any BlockStore below. */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import type { BlockStore } from '../block-store.js';
import { CachedStore } from '../cache/cached-store.js';
import type { BlockNaming } from '../cache/block-naming.js';
import { CacheWriter, type CacheWriterOptions } from '../cache/cache-writer.js';
import { slotFileName } from '../cache/slot-file.js';
import { SlotReader } from '../cache/slot-reader.js';
import { FillingStore } from '../fetch/filling-store.js';

export type LocalCache = {
  readonly store: CachedStore;
  readonly writer: CacheWriter;
  readonly filling: FillingStore;
  readonly reader: SlotReader;
  readonly close: () => Promise<void>;
};

export const openLocalCache = async (
  folder: string,
  below: BlockStore,
  options: Partial<CacheWriterOptions> & {
    readonly blockBytes?: number;
    readonly useNowait?: boolean;
    readonly naming?: BlockNaming;
  } = {},
): Promise<LocalCache> => {
  const { blockBytes = 65_536, useNowait, naming, ...rest } = options;
  const fileSystem = new LocalFileSystem();
  const writer = await CacheWriter.open(fileSystem, folder, { cacheBytesMax: 64 << 20, reserveBytes: 0, ...rest });
  const filling = new FillingStore(below, writer);
  const store = new CachedStore(filling);
  const file = await writer.file(blockBytes);
  const reader = new SlotReader(file.memory, await fileSystem.open(`${folder}/${slotFileName(blockBytes)}`, 'read'), {
    ...(useNowait === undefined ? {} : { useNowait }),
    ...(rest.nowMs === undefined ? {} : { nowMs: rest.nowMs }),
    ...(naming === undefined ? {} : { naming }),
    ...(rest.cipherOf === undefined ? {} : { cipher: rest.cipherOf(blockBytes) }),
  });
  store.addReader(reader);
  return {
    store,
    writer,
    filling,
    reader,
    close: async () => {
      filling.close();
      await store.close();
      await writer.close();
    },
  };
};

/** A new folder, and how to remove it. */
export const temporaryFolder = async (): Promise<{ readonly folder: string } & AsyncDisposable> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-blockd-'));
  return { folder, [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) };
};
