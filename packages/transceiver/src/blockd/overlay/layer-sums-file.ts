/**
 * The file `sums` in a layer's folder (docs/formats/overlay.md): the sums of its granules from a clean close, or from when it was sealed, to
 * the next open.
 *
 * It is there only while nothing that it speaks of can change. So it is written after the last flush, and whoever may write to the
 * layer takes it over and removes it, durably, before the first change: after a crash there are no sums rather than old ones.
 *
 * A sum of what one guesses would tell whether the guess is right: in an encrypted layer they are encrypted, too.
 */
import { setImmediate } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { CollectiveError, hasCode, isAllZero } from '@collective/shared';
import type { FileSystem, RandomFile } from '../../storage/file-system.js';
import { CIPHER_SECTOR_BYTES, type SectorCipher } from '../../storage/sector-cipher.js';
import { GRANULE_BYTES, granuleCountOf } from './geometry.js';
import { GranuleSums, SUMS_PAGE_GRANULES, ZERO_SUMS_PAGE } from './granule-sums.js';
import type { SectorMap } from './sector-map.js';

type Content = {
  readonly map: SectorMap;
  readonly sums: GranuleSums;
  /** Of the layer, where it is encrypted. */
  readonly cipher: SectorCipher | undefined;
};
type Location = { readonly folder: string; readonly layerId: string; readonly diskBytes: number };
/** `isKept`: the file is still there, because the layer is sealed. */
export type LoadedSums = { readonly sums: GranuleSums; readonly isKept: boolean };

const NAME = 'sums';
const MAGIC = 'COLLSUM\n';
const FORMAT = 1;
const HEADER_BYTES = 64;
const HEADER_CRC_AT = HEADER_BYTES - 4;
const ENTRY_HEAD_BYTES = 8;
const PAGE_BYTES = SUMS_PAGE_GRANULES * 4;
const ENCRYPTION = { none: 0, asData: 1 } as const;
/** A page of sums has these sectors of the layer's cipher; those of data end at 2^34. */
const FIRST_SECTOR = 2 ** 40;
const PAGE_SECTORS = PAGE_BYTES / CIPHER_SECTOR_BYTES;
const ENTRY = { sums: 0, zeroes: 1 } as const;

/**
 * The sums that count now. Errors: `local-io`, as fault `layer-damaged` when the file is whole and the maps are not those that it was made with.
 */
export const loadSums = async (
  fileSystem: FileSystem,
  location: Location,
  map: SectorMap,
  options: { readonly isSealed: boolean; readonly cipher: SectorCipher | undefined; readonly isNew?: boolean },
): Promise<LoadedSums> => {
  if (options.isNew === true) return { sums: new GranuleSums(granuleCountOf(location.diskBytes)), isKept: false };
  const folder = `${location.folder}/${location.layerId}`;
  const sums = await readSums(fileSystem, location, { map, cipher: options.cipher });
  if (!options.isSealed) {
    await fileSystem.remove(`${folder}/${NAME}`);
    // Also when there is none: a predecessor may have been killed between these two lines.
    await fileSystem.syncFolder(folder);
  }
  return {
    sums: sums ?? new GranuleSums(granuleCountOf(location.diskBytes)),
    isKept: options.isSealed && sums !== undefined,
  };
};

/** False when it could not be done: then there is no such file, or a right one. */
export const saveSums = async (fileSystem: FileSystem, location: Location, content: Content): Promise<boolean> => {
  const folder = `${location.folder}/${location.layerId}`;
  const temporary = `${folder}/${NAME}.new`;
  try {
    await fileSystem.remove(temporary);
    const file = await fileSystem.open(temporary, 'create');
    try {
      await writeSums(file, location, content);
      await file.sync();
    } finally {
      await file.close();
    }
    await fileSystem.rename(temporary, `${folder}/${NAME}`);
    await fileSystem.syncFolder(folder);
    return true;
  } catch {
    await fileSystem.remove(temporary).catch(() => undefined);
    return false;
  }
};

const writeSums = async (file: RandomFile, location: Location, { map, sums, cipher }: Content): Promise<void> => {
  const pageIndexes = Array.from({ length: sums.pageCount }, (_, index) => index).filter(
    (index) => sums.page(index) !== undefined,
  );
  const header = encodeHeader({
    ...location,
    encryption: encryptionOf(cipher),
    mapCrc: crcOfMap(map),
    pageCount: pageIndexes.length,
  });
  await file.write(header, 0);
  let byteOffset = HEADER_BYTES;
  for (const pageIndex of pageIndexes) {
    const page = sums.page(pageIndex);
    if (page === undefined) continue;
    const isZeroes = page === ZERO_SUMS_PAGE;
    const entry = Buffer.alloc(ENTRY_HEAD_BYTES + (isZeroes ? 0 : PAGE_BYTES) + 4);
    entry.writeUInt32LE(pageIndex, 0);
    entry.writeUInt32LE(isZeroes ? ENTRY.zeroes : ENTRY.sums, 4);
    // Little-endian, as every machine that this runs on. Some guest may be waiting for this thread: element by element took 8 ms.
    if (!isZeroes) entry.set(new Uint8Array(page.buffer, page.byteOffset, PAGE_BYTES), ENTRY_HEAD_BYTES);
    if (!isZeroes && cipher !== undefined) {
      const bytes = sumsIn(entry);
      cipher.encrypt(bytes, bytes, FIRST_SECTOR + pageIndex * PAGE_SECTORS);
    }
    entry.writeUInt32LE(crcOfEntry(header, entry), entry.length - 4);
    await file.write(entry, byteOffset);
    byteOffset += entry.length;
    await setImmediate();
  }
};

/** Undefined when there is no such file, or one that cannot be believed. */
const readSums = async (
  fileSystem: FileSystem,
  location: Location,
  { map, cipher }: Omit<Content, 'sums'>,
): Promise<GranuleSums | undefined> => {
  const path = `${location.folder}/${location.layerId}/${NAME}`;
  const file = await fileSystem.open(path, 'read').catch((error: unknown) => {
    if (hasCode(error, 'not-found')) return undefined;
    throw error;
  });
  if (file === undefined) return undefined;
  try {
    const byteLength = await file.byteLength();
    const header = await readPart(file, 0, HEADER_BYTES, byteLength);
    if (header === undefined) return undefined;
    const mapCrc = header.readUInt32LE(40);
    const pageCount = header.readUInt32LE(44);
    if (!header.equals(encodeHeader({ ...location, encryption: encryptionOf(cipher), mapCrc, pageCount })))
      return undefined;
    const sums = new GranuleSums(map.granuleCount);
    let byteOffset = HEADER_BYTES;
    for (let count = 0; count < pageCount; count += 1) {
      const head = await readPart(file, byteOffset, ENTRY_HEAD_BYTES, byteLength);
      if (head === undefined) return undefined;
      const isZeroes = head.readUInt32LE(4) === ENTRY.zeroes;
      const entry = await readPart(file, byteOffset, ENTRY_HEAD_BYTES + (isZeroes ? 0 : PAGE_BYTES) + 4, byteLength);
      if (entry === undefined || crcOfEntry(header, entry) !== entry.readUInt32LE(entry.length - 4)) return undefined;
      const pageIndex = entry.readUInt32LE(0);
      if (!isZeroes && cipher !== undefined) {
        const bytes = sumsIn(entry);
        cipher.decrypt(bytes, bytes, FIRST_SECTOR + pageIndex * PAGE_SECTORS);
      }
      sums.load(pageIndex, isZeroes ? ZERO_SUMS_PAGE : pageOf(entry));
      byteOffset += entry.length;
    }
    if (mapCrc !== crcOfMap(map)) {
      throw new CollectiveError(
        'local-io',
        `${location.folder}/${location.layerId}: the maps are not as they were when ${NAME} was written; the medium is damaged`,
        { data: { fault: 'layer-damaged', path } },
      );
    }
    return sums;
  } finally {
    await file.close();
  }
};

type Header = Location & { readonly encryption: number; readonly mapCrc: number; readonly pageCount: number };

const encryptionOf = (cipher: SectorCipher | undefined): number =>
  cipher === undefined ? ENCRYPTION.none : ENCRYPTION.asData;

const sumsIn = (entry: Buffer): Buffer => entry.subarray(ENTRY_HEAD_BYTES, ENTRY_HEAD_BYTES + PAGE_BYTES);

const encodeHeader = (header: Header): Buffer => {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.write(MAGIC, 0, 'latin1');
  bytes.writeUInt16LE(FORMAT, 8);
  bytes.writeUInt16LE(header.encryption, 10);
  bytes.writeUInt32LE(GRANULE_BYTES, 12);
  bytes.writeBigUInt64LE(BigInt(header.diskBytes), 16);
  bytes.write(header.layerId, 24, 16, 'hex');
  bytes.writeUInt32LE(header.mapCrc, 40);
  bytes.writeUInt32LE(header.pageCount, 44);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, HEADER_CRC_AT)), HEADER_CRC_AT);
  return bytes;
};

/** Goes on from the header's crc, so that an entry of another file does not pass. */
const crcOfEntry = (header: Buffer, entry: Buffer): number =>
  crc32(entry.subarray(0, entry.length - 4), header.readUInt32LE(HEADER_CRC_AT));

/** Undefined where the file ends before, or cannot be read: it is not believed then, and the disk does without. */
const readPart = async (
  file: RandomFile,
  byteOffset: number,
  byteLength: number,
  fileBytes: number,
): Promise<Buffer | undefined> => {
  if (byteOffset + byteLength > fileBytes) return undefined;
  const bytes = Buffer.alloc(byteLength);
  try {
    await file.read(bytes, byteOffset);
  } catch (error) {
    if (hasCode(error, 'local-io')) return undefined;
    throw error;
  }
  return bytes;
};

const pageOf = (entry: Buffer): Uint32Array => {
  const page = new Uint32Array(SUMS_PAGE_GRANULES);
  for (let index = 0; index < SUMS_PAGE_GRANULES; index += 1)
    page[index] = entry.readUInt32LE(ENTRY_HEAD_BYTES + index * 4);
  return page;
};

/** Of every page that has a bit, with its number. */
const crcOfMap = (map: SectorMap): number => {
  let crc = 0;
  const number = Buffer.alloc(4);
  for (let pageIndex = 0; pageIndex < map.pageCount; pageIndex += 1) {
    const bytes = map.pageBytes(pageIndex);
    if (bytes === undefined || isAllZero(bytes)) continue;
    number.writeUInt32LE(pageIndex);
    crc = crc32(bytes, crc32(number, crc));
  }
  return crc;
};
