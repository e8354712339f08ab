/** How the maps of a layer are found when it is opened: which of them counts, and what a restarted machine makes of them. */
import { CollectiveError, hasCode } from '@collective/shared';
import type { FileSystem, RandomFile } from '../../storage/file-system.js';
import { granuleCountOf } from './geometry.js';
import { decodeMapFileHeader, encodeMapFileHeader, isHeaderAsMade, MAP_HEADER_BYTES } from './map-file-header.js';
import { MAP_PAGE_GRANULES, SectorMap } from './sector-map.js';

export type LayerLocation = {
  /** The folder that holds the layers' folders. */
  readonly folder: string;
  readonly layerId: string;
  readonly diskBytes: number;
};

export type LoadedMap = { readonly bootId: string; readonly map: SectorMap; readonly durableChunks: Set<number> };
export type LayerFiles = { readonly data: RandomFile; readonly live: RandomFile; readonly durable: RandomFile };

/** Pages of the durable file that get their space together: 64 KiB. */
export const CHUNK_PAGES = 16;
/** In front of the boot id in the live file: a sync failed, so what is in the page cache is not to be believed either. */
export const FAILED = '!';

export const pageAt = (pageIndex: number): number => MAP_HEADER_BYTES + pageIndex * MAP_PAGE_GRANULES;

export const expectByteLength = async (file: RandomFile, byteLength: number): Promise<void> => {
  const actual = await file.byteLength();
  if (actual !== byteLength) {
    throw new CollectiveError('malformed', `${file.path} has ${actual} bytes instead of ${byteLength}`);
  }
};

/** The boot id in the header of one of the layer's own map files. */
const readBootId = async (file: RandomFile, kind: 'live' | 'durable', location: LayerLocation): Promise<string> => {
  const bytes = Buffer.alloc(MAP_HEADER_BYTES);
  await file.read(bytes, 0);
  const header = decodeMapFileHeader(bytes);
  if (header.kind !== kind || header.layerId !== location.layerId || header.diskBytes !== location.diskBytes) {
    throw new CollectiveError('malformed', `${file.path} belongs to another layer`);
  }
  return header.bootId;
};

const forEachPage = async (
  file: RandomFile,
  pageCount: number,
  visit: (pageIndex: number, bytes: Buffer) => void,
): Promise<void> => {
  let position = MAP_HEADER_BYTES;
  for (const extent of file.extents(MAP_HEADER_BYTES, pageCount * MAP_PAGE_GRANULES)) {
    const end = position + extent.byteLength;
    if (extent.kind === 'data') {
      const firstPage = Math.floor((position - MAP_HEADER_BYTES) / MAP_PAGE_GRANULES);
      const endPage = Math.ceil((end - MAP_HEADER_BYTES) / MAP_PAGE_GRANULES);
      for (let pageIndex = firstPage; pageIndex < endPage; pageIndex += 1) {
        const bytes = Buffer.alloc(MAP_PAGE_GRANULES);
        await file.read(bytes, pageAt(pageIndex));
        visit(pageIndex, bytes);
      }
    }
    position = end;
  }
};

/**
 * The map as it counts now. In the same boot of the machine that is live (and durable, which is a part of it); otherwise
 * durable alone, and the live file is made anew from it: first unbelievable, then its content, then its boot id, so that
 * kill -9 at any point leaves either no live map or a right one.
 */
export const loadMap = async (files: LayerFiles, location: LayerLocation, bootId: string): Promise<LoadedMap> => {
  const { live, durable } = files;
  const map = new SectorMap(granuleCountOf(location.diskBytes));
  await expectByteLength(durable, pageAt(map.pageCount));
  await readBootId(durable, 'durable', location);
  const durableChunks = new Set<number>();
  await forEachPage(durable, map.pageCount, (pageIndex, bytes) => {
    // A page that is there was written with its whole chunk.
    durableChunks.add(Math.floor(pageIndex / CHUNK_PAGES));
    map.load(pageIndex, bytes);
  });
  const liveBootId = await readLiveBootId(live, location, pageAt(map.pageCount));
  if (liveBootId === FAILED + bootId) {
    throw new CollectiveError(
      'local-io',
      `${live.path}: an fdatasync failed since this machine was started; after a restart of it what was flushed counts`,
    );
  }
  if (liveBootId === bootId) {
    await forEachPage(live, map.pageCount, (pageIndex, bytes) => {
      const known = map.pageBytes(pageIndex);
      const isNews = bytes.some((mask, index) => (mask | (known?.[index] ?? 0)) !== (known?.[index] ?? 0));
      if (!isNews) return;
      map.load(pageIndex, bytes);
      map.noteUnsynced(pageIndex);
    });
  } else {
    const header = { kind: 'live', diskBytes: location.diskBytes, layerId: location.layerId } as const;
    live.writeNow(encodeMapFileHeader({ ...header, bootId: '' }), 0);
    await live.setByteLength(MAP_HEADER_BYTES);
    await live.setByteLength(pageAt(map.pageCount));
    for (let pageIndex = 0; pageIndex < map.pageCount; pageIndex += 1) {
      const bytes = map.pageBytes(pageIndex);
      if (bytes !== undefined) await live.write(bytes, pageAt(pageIndex));
    }
    live.writeNow(encodeMapFileHeader({ ...header, bootId }), 0);
  }
  return { map, durableChunks, bootId };
};

const readLiveBootId = async (
  live: RandomFile,
  location: LayerLocation,
  byteLength: number,
): Promise<string | undefined> => {
  try {
    if ((await live.byteLength()) !== byteLength) return undefined;
    return await readBootId(live, 'live', location);
  } catch (error) {
    // After a power cut it may hold anything, or be short.
    if (hasCode(error, 'malformed') || hasCode(error, 'unknown-format')) return undefined;
    throw error;
  }
};

/** Whether somebody has opened the layer since it was made; so whether it may hold anything. */
export const wasLayerUsed = async (fileSystem: FileSystem, path: string): Promise<boolean> => {
  const live = await fileSystem.open(`${path}/live`, 'read').catch((error: unknown) => {
    if (hasCode(error, 'not-found')) return undefined;
    throw error;
  });
  if (live === undefined) return false;
  try {
    const bytes = Buffer.alloc(MAP_HEADER_BYTES);
    if ((await live.byteLength()) < MAP_HEADER_BYTES) return false;
    await live.read(bytes, 0);
    return !isHeaderAsMade(bytes);
  } finally {
    await live.close();
  }
};
