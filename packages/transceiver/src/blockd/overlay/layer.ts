/**
 * One layer: a folder with the changed bytes of a disk (`data`, sparse, at the same offsets) and two maps of which
 * sectors it holds.
 *
 *  - `live` is written before a write is acknowledged and never synced: kill -9 leaves it and the data in the page cache. It
 *    carries the machine's boot id; after a restart of the machine it may be any mixture and is not believed.
 *  - `durable` is written only after an fdatasync of the data that its bits speak of, and is then synced itself: a power
 *    cut can never show a bit without its data. After a restart of the machine it is what counts.
 *
 * Order of a write: data, bits in memory (`add…`), bits in the live file (`publish`), reply. Order of a flush: copy of the
 * changed pages of the map, fdatasync of the data, those pages to the durable file, fdatasync of that.
 */
import { randomBytes } from 'node:crypto';
import { CollectiveError, hasCode } from '@collective/shared';
import type { FileSystem, RandomFile } from '../../storage/file-system.js';
import { GroupSync } from '../../storage/group-sync.js';
import {
  GRANULE_BYTES,
  granuleCountOf,
  OVERLAY_LIMITS,
  SECTOR_BYTES,
  sectorMask,
  SECTORS_PER_GRANULE,
} from './geometry.js';
import { decodeMapFileHeader, encodeMapFileHeader, MAP_HEADER_BYTES } from './map-file-header.js';
import { MAP_PAGE_GRANULES, SectorMap } from './sector-map.js';

export type LayerLocation = {
  /** The folder that holds the layers' folders. */
  readonly folder: string;
  readonly layerId: string;
  readonly diskBytes: number;
};

type LoadedMap = { readonly bootId: string; readonly map: SectorMap; readonly durableChunks: Set<number> };
type LayerFiles = { readonly data: RandomFile; readonly live: RandomFile; readonly durable: RandomFile };

/** Pages of the durable file that get their space together: 64 KiB. */
const CHUNK_PAGES = 16;
/** In front of the boot id in the live file: a sync failed, so what is in the page cache is not to be believed either. */
const FAILED = '!';

const pageAt = (pageIndex: number): number => MAP_HEADER_BYTES + pageIndex * MAP_PAGE_GRANULES;

export const newLayerId = (): string => randomBytes(16).toString('hex');

export class Layer {
  readonly layerId: string;
  readonly data: RandomFile;
  readonly map: SectorMap;
  readonly #live: RandomFile;
  readonly #durable: RandomFile;
  readonly #groupSync: GroupSync;
  readonly #diskBytes: number;
  /** Chunks of the durable file that have their space. */
  readonly #durableChunks: Set<number>;
  readonly #headerOfFailed: Buffer;
  #mapFull: unknown;

  private constructor(location: LayerLocation, files: LayerFiles, loaded: LoadedMap) {
    this.layerId = location.layerId;
    this.#diskBytes = location.diskBytes;
    this.data = files.data;
    this.map = loaded.map;
    this.#durableChunks = loaded.durableChunks;
    this.#headerOfFailed = encodeMapFileHeader({
      kind: 'live',
      diskBytes: location.diskBytes,
      layerId: location.layerId,
      bootId: FAILED + loaded.bootId,
    });
    this.#live = files.live;
    this.#durable = files.durable;
    // Dirty from the start: a killed predecessor may have left data unsynced.
    this.#groupSync = new GroupSync(() => this.#syncOnce(), {
      dirty: true,
      mayRetry: (error) => error !== undefined && error === this.#mapFull,
    });
  }

  /** Makes an empty layer that is on the medium, folder and all, when this resolves. Errors: `disk-full`, `local-io`. */
  static async create(fileSystem: FileSystem, location: LayerLocation): Promise<void> {
    const { folder, layerId, diskBytes } = location;
    const path = `${folder}/${layerId}`;
    await fileSystem.makeFolder(path);
    const mapBytes = pageAt(Math.ceil(granuleCountOf(diskBytes) / MAP_PAGE_GRANULES));
    for (const kind of ['data', 'live', 'durable'] as const) {
      const file = await fileSystem.open(`${path}/${kind}`, 'create');
      try {
        await file.setByteLength(kind === 'data' ? granuleCountOf(diskBytes) * GRANULE_BYTES : mapBytes);
        if (kind !== 'data') await file.write(encodeMapFileHeader({ kind, diskBytes, layerId, bootId: '' }), 0);
        await file.sync();
      } finally {
        await file.close();
      }
    }
    await fileSystem.syncFolder(path);
    await fileSystem.syncFolder(folder);
  }

  /** Errors: `malformed`, `unknown-format`, `not-found`, `local-io`. */
  static async open(fileSystem: FileSystem, location: LayerLocation): Promise<Layer> {
    const opened: RandomFile[] = [];
    const openFile = async (name: string): Promise<RandomFile> => {
      const file = await fileSystem.open(`${location.folder}/${location.layerId}/${name}`, 'write');
      opened.push(file);
      return file;
    };
    try {
      const files = { data: await openFile('data'), live: await openFile('live'), durable: await openFile('durable') };
      await expectByteLength(files.data, granuleCountOf(location.diskBytes) * GRANULE_BYTES);
      return new Layer(location, files, await loadMap(files, location, await fileSystem.bootId()));
    } catch (error) {
      for (const file of opened) await file.close();
      throw error;
    }
  }

  tryWrite(source: Buffer, byteOffset: number): boolean {
    if (this.#groupSync.failed) return false;
    const written = this.data.tryWrite(source, byteOffset);
    this.#groupSync.note();
    return written;
  }

  async write(source: Buffer, byteOffset: number): Promise<void> {
    this.#refuseAfterFailure();
    try {
      await this.data.write(source, byteOffset);
    } finally {
      this.#groupSync.note();
    }
  }

  async zero(byteOffset: number, byteLength: number, options: { readonly keepAllocated: boolean }): Promise<void> {
    this.#refuseAfterFailure();
    try {
      await this.data.zero(byteOffset, byteLength, options);
    } finally {
      this.#groupSync.note();
    }
  }

  /** Sets the bits of a range of whole sectors whose data has been written. */
  addRange(byteOffset: number, byteLength: number): void {
    const end = byteOffset + byteLength;
    const firstSector = byteOffset / SECTOR_BYTES;
    // The last granule may reach beyond the disk; what is not there belongs to the last sector.
    const endSector = end === this.#diskBytes ? this.map.granuleCount * SECTORS_PER_GRANULE : end / SECTOR_BYTES;
    const firstWhole = Math.ceil(firstSector / SECTORS_PER_GRANULE);
    const endWhole = Math.floor(endSector / SECTORS_PER_GRANULE);
    if (firstWhole < endWhole) this.map.addWhole(firstWhole, endWhole);
    if (firstSector % SECTORS_PER_GRANULE !== 0) {
      const granule = firstWhole - 1;
      const maskEnd = Math.min(SECTORS_PER_GRANULE, endSector - granule * SECTORS_PER_GRANULE);
      this.map.add(granule, sectorMask(firstSector % SECTORS_PER_GRANULE, maskEnd));
    }
    if (endSector % SECTORS_PER_GRANULE !== 0 && endWhole >= firstWhole) {
      this.map.add(endWhole, sectorMask(0, endSector % SECTORS_PER_GRANULE));
    }
  }

  /** Brings bits that were set since the last time into the live file. Errors: `disk-full`, `local-io`. */
  publish(): void {
    if (!this.map.hasUnpublished) return;
    this.map.publish((bytes, granule) => this.#live.writeNow(bytes, MAP_HEADER_BYTES + granule));
  }

  /** Resolves when all that was written before the call survives a power cut. Errors: `local-io` (for good), `disk-full`. */
  flush(): Promise<void> {
    if (this.map.hasUnsynced) this.#groupSync.note();
    return this.#groupSync.sync();
  }

  async close(): Promise<void> {
    for (const file of [this.data, this.#live, this.#durable]) await file.close();
  }

  async #syncOnce(): Promise<void> {
    const pages = this.map.takeUnsynced();
    await this.#syncFile(this.data);
    if (pages.length === 0) return;
    try {
      for (const run of this.#durableRuns(pages)) {
        const isWritten =
          run.bytes.length <= OVERLAY_LIMITS.syncMapBytesMax && this.#durable.tryWrite(run.bytes, run.byteOffset);
        if (!isWritten) await this.#durable.write(run.bytes, run.byteOffset);
      }
    } catch (error) {
      // Bits that did not get there are only missing: the next flush may try again.
      for (const { pageIndex } of pages) this.map.noteUnsynced(pageIndex);
      if (hasCode(error, 'disk-full')) this.#mapFull = error;
      throw error;
    }
    await this.#syncFile(this.#durable);
  }

  /** A failure is remembered in the live file, because a later process could not know that pages may be lost. */
  async #syncFile(file: RandomFile): Promise<void> {
    try {
      await file.sync();
    } catch (error) {
      this.#live.writeNow(this.#headerOfFailed, 0);
      throw error;
    }
  }

  /**
   * The pages as they are to be written. Where the durable file has no space yet, a whole chunk of zeroes around them is
   * written too: writing into space that is there needs no journal commit, which halves the next flush.
   */
  #durableRuns(
    pages: readonly { readonly pageIndex: number; readonly bytes: Buffer }[],
  ): { bytes: Buffer; byteOffset: number }[] {
    const runs: { bytes: Buffer; byteOffset: number }[] = [];
    const fresh = new Map<number, Buffer>();
    for (const { pageIndex, bytes } of pages) {
      const chunk = Math.floor(pageIndex / CHUNK_PAGES);
      let chunkBytes = fresh.get(chunk);
      if (chunkBytes === undefined && !this.#durableChunks.has(chunk)) {
        const chunkPages = Math.min(CHUNK_PAGES, this.map.pageCount - chunk * CHUNK_PAGES);
        chunkBytes = Buffer.alloc(chunkPages * MAP_PAGE_GRANULES);
        fresh.set(chunk, chunkBytes);
        runs.push({ bytes: chunkBytes, byteOffset: pageAt(chunk * CHUNK_PAGES) });
        this.#durableChunks.add(chunk);
      }
      if (chunkBytes === undefined) runs.push({ bytes, byteOffset: pageAt(pageIndex) });
      else bytes.copy(chunkBytes, (pageIndex % CHUNK_PAGES) * MAP_PAGE_GRANULES);
    }
    return runs;
  }

  #refuseAfterFailure(): void {
    if (this.#groupSync.failed) {
      throw new CollectiveError(
        'local-io',
        `${this.data.path}: an earlier fdatasync failed; what was not synced may be lost`,
      );
    }
  }
}

const expectByteLength = async (file: RandomFile, byteLength: number): Promise<void> => {
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
const loadMap = async (files: LayerFiles, location: LayerLocation, bootId: string): Promise<LoadedMap> => {
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
  const open = (name: string): Promise<RandomFile | undefined> =>
    fileSystem.open(`${path}/${name}`, 'read').catch((error: unknown) => {
      if (hasCode(error, 'not-found')) return undefined;
      throw error;
    });
  const live = await open('live');
  if (live === undefined) return false;
  try {
    const bytes = Buffer.alloc(MAP_HEADER_BYTES);
    if ((await live.byteLength()) < MAP_HEADER_BYTES) return false;
    await live.read(bytes, 0);
    if (bytes.every((byte) => byte === 0)) return false; // a crash while it was made
    return decodeMapFileHeader(bytes).bootId !== '';
  } catch (error) {
    if (hasCode(error, 'malformed') || hasCode(error, 'unknown-format')) return true;
    throw error;
  } finally {
    await live.close();
  }
};
