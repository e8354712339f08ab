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
import type { Extent } from '../block-device.js';
import type { FileSystem, RandomFile } from '../../storage/file-system.js';
import { EncryptedFile } from '../../storage/encrypted-file.js';
import { GroupSync } from '../../storage/group-sync.js';
import type { SectorCipher } from '../../storage/sector-cipher.js';
import {
  GRANULE_BYTES,
  granuleCountOf,
  granuleOf,
  OVERLAY_LIMITS,
  SECTOR_BYTES,
  sectorMask,
  SECTORS_PER_GRANULE,
} from './geometry.js';
import { LayerData } from './layer-data.js';
import {
  CHUNK_PAGES,
  expectByteLength,
  FAILED,
  loadMap,
  pageAt,
  type LayerFiles,
  type LayerLocation,
  type LoadedMap,
} from './layer-maps.js';
import { loadSums, saveSums, type LoadedSums } from './layer-sums-file.js';
import { encodeMapFileHeader, MAP_HEADER_BYTES } from './map-file-header.js';
import { MAP_PAGE_GRANULES, type SectorMap } from './sector-map.js';

export const newLayerId = (): string => randomBytes(16).toString('hex');

type Loaded = LoadedMap & { readonly sums: LoadedSums; readonly cipher: SectorCipher | undefined };

export class Layer {
  readonly layerId: string;
  readonly map: SectorMap;
  readonly #data: LayerData;
  readonly #live: RandomFile;
  readonly #durable: RandomFile;
  readonly #groupSync: GroupSync;
  readonly #location: LayerLocation;
  /** Chunks of the durable file that have their space. */
  readonly #durableChunks: Set<number>;
  readonly #headerOfFailed: Buffer;
  readonly #cipher: SectorCipher | undefined;
  #mapFull: unknown;
  /** A sync of the data failed: a page of it may have been dropped from memory and be read as it was before. */
  #isDataLost = false;
  /** From the start: a predecessor may have been killed between writing the durable map and its sync. */
  #isDurableDirty = true;
  /** The file of sums is there, and nothing that it speaks of can change. */
  #hasSumsFile: boolean;

  private constructor(location: LayerLocation, files: LayerFiles, loaded: Loaded) {
    const { diskBytes } = location;
    const { map, sums } = loaded;
    this.layerId = location.layerId;
    this.#location = location;
    this.#data = new LayerData(files.data, { map, sums: sums.sums, diskBytes });
    this.#hasSumsFile = sums.isKept;
    this.map = map;
    this.#durableChunks = loaded.durableChunks;
    this.#headerOfFailed = encodeMapFileHeader({
      kind: 'live',
      diskBytes: location.diskBytes,
      layerId: location.layerId,
      bootId: FAILED + loaded.bootId,
    });
    this.#cipher = loaded.cipher;
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
    const files: RandomFile[] = [];
    try {
      for (const kind of ['data', 'live', 'durable'] as const) {
        const file = await fileSystem.open(`${path}/${kind}`, 'create');
        files.push(file);
        await file.setByteLength(kind === 'data' ? granuleCountOf(diskBytes) * GRANULE_BYTES : mapBytes);
        if (kind !== 'data') await file.write(encodeMapFileHeader({ kind, diskBytes, layerId, bootId: '' }), 0);
      }
      // In any order, so together: one commit of the file system's journal instead of five.
      const folders = [path, folder].map((each) => fileSystem.syncFolder(each));
      await allDone([...files.map((file) => file.sync()), ...folders]);
    } finally {
      for (const file of files) await file.close();
    }
  }

  /** `isSealed`: nothing is written to it any more. `cipher`: of the layer, where it is encrypted. Errors: `malformed`, `unknown-format`, `not-found`, `local-io`. */
  static async open(
    fileSystem: FileSystem,
    location: LayerLocation,
    options: {
      readonly isSealed: boolean;
      readonly cipher: SectorCipher | undefined;
      /** `create` has just made it: nobody had it open before. */
      readonly isNew?: boolean;
    },
  ): Promise<Layer> {
    const { cipher } = options;
    const opened: RandomFile[] = [];
    const openFile = async (name: string): Promise<RandomFile> => {
      const file = await fileSystem.open(`${location.folder}/${location.layerId}/${name}`, 'write');
      opened.push(file);
      return file;
    };
    try {
      const data = await openFile('data');
      const files = {
        data: cipher === undefined ? data : new EncryptedFile(data, cipher),
        live: await openFile('live'),
        durable: await openFile('durable'),
      };
      await expectByteLength(files.data, granuleCountOf(location.diskBytes) * GRANULE_BYTES);
      const loaded = await loadMap(files, location, await fileSystem.bootId());
      const sums = await loadSums(fileSystem, location, loaded.map, options);
      return new Layer(location, files, { ...loaded, sums, cipher });
    } catch (error) {
      for (const file of opened) await file.close();
      throw error;
    }
  }

  /** Whether `zero` is much cheaper than writing zeroes. */
  get zeroIsFast(): boolean {
    return this.#data.file.zeroIsFast;
  }

  /** False: it would have to wait, or is not what was written. */
  tryRead(target: Buffer, byteOffset: number): boolean {
    return !this.#isDataLost && this.#data.tryRead(target, byteOffset);
  }

  /** False: a write came between, or it is not what was written; to be repeated by `readHeld`. */
  async read(target: Buffer, byteOffset: number): Promise<boolean> {
    if (this.#isDataLost) throw this.#lost();
    const fits = await this.#data.read(target, byteOffset);
    // The sync may have failed in the meantime.
    if (this.#isDataLost) throw this.#lost();
    return fits;
  }

  /** As `read`, by a caller who holds the granules. Error `local-io`, as fault `layer-damaged`, when it is not what was written. */
  async readHeld(target: Buffer, byteOffset: number): Promise<void> {
    if (this.#isDataLost) throw this.#lost();
    try {
      await this.#data.readHeld(target, byteOffset);
    } catch (error) {
      throw this.#isDataLost ? this.#lost() : error; // what was lost is no damage
    }
    if (this.#isDataLost) throw this.#lost();
  }

  /** Whether a bit of that granule that flips on the medium from now on would be noticed. */
  isSummed(byteOffset: number): boolean {
    return this.#data.sums.isKnown(granuleOf(byteOffset));
  }

  extents(byteOffset: number, byteLength: number): Extent[] {
    return this.#isDataLost ? [{ byteLength, kind: 'data' }] : this.#data.file.extents(byteOffset, byteLength);
  }

  willRead(byteOffset: number, byteLength: number): void {
    this.#data.file.willRead(byteOffset, byteLength);
  }

  tryWrite(source: Buffer, byteOffset: number): boolean {
    if (this.#groupSync.failed) return false;
    const written = this.#data.tryWrite(source, byteOffset);
    this.#groupSync.note();
    return written;
  }

  async write(source: Buffer, byteOffset: number): Promise<void> {
    this.#refuseAfterFailure();
    try {
      await this.#data.write(source, byteOffset);
    } finally {
      this.#groupSync.note();
    }
  }

  async zero(byteOffset: number, byteLength: number, options: { readonly keepAllocated: boolean }): Promise<void> {
    this.#refuseAfterFailure();
    try {
      await this.#data.zero(byteOffset, byteLength, options);
    } finally {
      this.#groupSync.note();
    }
  }

  /** Sets the bits of a range of whole sectors whose data has been written. */
  addRange(byteOffset: number, byteLength: number): void {
    const end = byteOffset + byteLength;
    const firstSector = byteOffset / SECTOR_BYTES;
    // The last granule may reach beyond the disk; what is not there belongs to the last sector.
    const endSector =
      end === this.#location.diskBytes ? this.map.granuleCount * SECTORS_PER_GRANULE : end / SECTOR_BYTES;
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

  /**
   * Brings the sums into their file. Only when all is flushed and nothing can be written to the layer any more. It never fails: without the file
   * nothing is lost but the sums.
   */
  async keepSums(fileSystem: FileSystem): Promise<void> {
    const { sums } = this.#data;
    if ((this.#hasSumsFile && !sums.hasNews) || this.#groupSync.failed || this.map.hasUnsynced) return;
    sums.hasNews = false; // a sealed layer may learn some more meanwhile
    if (await saveSums(fileSystem, this.#location, { map: this.map, sums, cipher: this.#cipher }))
      this.#hasSumsFile = true;
    else sums.hasNews = true;
  }

  async close(): Promise<void> {
    for (const file of [this.#data.file, this.#live, this.#durable]) await file.close();
  }

  async #syncOnce(): Promise<void> {
    const pages = this.map.takeUnsynced();
    try {
      await this.#syncFile(this.#data.file);
    } catch (error) {
      this.#isDataLost = true;
      throw error;
    }
    if (pages.length === 0 && !this.#isDurableDirty) return;
    this.#isDurableDirty = true;
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
    this.#isDurableDirty = false; // syncs do not overlap
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
    if (this.#groupSync.failed) throw this.#lost();
  }

  #lost(): CollectiveError {
    return new CollectiveError(
      'local-io',
      `${this.#data.file.path}: an earlier fdatasync failed; what was not synced may be lost`,
    );
  }
}

/** Waits for all of them, and fails with the first one's error when one has failed. */
const allDone = async (all: readonly Promise<void>[]): Promise<void> => {
  const failed = (await Promise.allSettled(all)).find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
};
