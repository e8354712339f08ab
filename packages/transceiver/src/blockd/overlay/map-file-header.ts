/**
 * The first 4096 bytes of a layer's `live` and `durable` files (docs/formats/overlay.md):
 *
 *   magic 8 · format u16 · kind u8 · reserved u8 · granule bytes u32 · disk bytes u64 · layer id 16 · boot id 40 · zero · crc32 u32
 *
 * All numbers are little-endian. The crc is of the bytes before it.
 */
import { crc32 } from 'node:zlib';
import { CollectiveError } from '@collective/shared';
import { GRANULE_BYTES, OVERLAY_LIMITS } from './geometry.js';

export const MAP_HEADER_BYTES = 4096;
export const MAP_FILE_FORMAT = 1;
const MAGIC = 'COLLMAP\n';
const KINDS = ['live', 'durable'] as const;
const LAYER_ID = /^[0-9a-f]{32}$/;
const BOOT_ID = /^[\x21-\x7e]{0,40}$/;
const CRC_AT = MAP_HEADER_BYTES - 4;
const BOOT_ID_AT = 40;
const USED_BYTES = 80;

export type MapFileHeader = {
  readonly kind: 'live' | 'durable';
  readonly diskBytes: number;
  /** 32 lower-case hex digits. */
  readonly layerId: string;
  /** The machine's boot while the map is to be believed; empty: not at all (live) or always (durable). */
  readonly bootId: string;
};

export const encodeMapFileHeader = (header: MapFileHeader): Buffer => {
  const bytes = Buffer.alloc(MAP_HEADER_BYTES);
  bytes.write(MAGIC, 0, 'latin1');
  bytes.writeUInt16LE(MAP_FILE_FORMAT, 8);
  bytes.writeUInt8(KINDS.indexOf(header.kind), 10);
  bytes.writeUInt32LE(GRANULE_BYTES, 12);
  bytes.writeBigUInt64LE(BigInt(header.diskBytes), 16);
  bytes.write(header.layerId, 24, 16, 'hex');
  bytes.write(header.bootId, BOOT_ID_AT, 40, 'latin1');
  bytes.writeUInt32LE(crc32(bytes.subarray(0, CRC_AT)), CRC_AT);
  return bytes;
};

/** Errors: `malformed`, `unknown-format`. */
export const decodeMapFileHeader = (bytes: Buffer): MapFileHeader => {
  const malformed = (what: string): CollectiveError => new CollectiveError('malformed', `map file header: ${what}`);
  if (bytes.length !== MAP_HEADER_BYTES) throw malformed(`${bytes.length} bytes`);
  if (bytes.toString('latin1', 0, 8) !== MAGIC) throw malformed('not a map file');
  if (crc32(bytes.subarray(0, CRC_AT)) !== bytes.readUInt32LE(CRC_AT)) throw malformed('its checksum is wrong');
  const format = bytes.readUInt16LE(8);
  if (format !== MAP_FILE_FORMAT) throw new CollectiveError('unknown-format', `map file format ${format}`);
  const kind = KINDS[bytes.readUInt8(10)];
  if (kind === undefined || bytes.readUInt8(11) !== 0) throw malformed('unknown kind');
  if (bytes.readUInt32LE(12) !== GRANULE_BYTES) throw malformed(`granules of ${bytes.readUInt32LE(12)} bytes`);
  const diskBytes = Number(bytes.readBigUInt64LE(16));
  if (diskBytes > OVERLAY_LIMITS.diskBytesMax) throw malformed(`a disk of ${diskBytes} bytes`);
  const layerId = bytes.toString('hex', 24, 40);
  const bootId = bytes.toString('latin1', BOOT_ID_AT, USED_BYTES).replace(/\0+$/, '');
  if (!LAYER_ID.test(layerId) || !BOOT_ID.test(bootId)) throw malformed('bad id');
  if (bytes.subarray(USED_BYTES, CRC_AT).some((byte) => byte !== 0)) throw malformed('unknown fields');
  return { kind, diskBytes, layerId, bootId };
};

/**
 * Whether the header has never carried a boot id: it is as it was made, or a crash left only some of its sectors. (The crc in its last
 * sector being zero would be chance; the first sector is never zero for one that was opened.)
 */
export const isHeaderAsMade = (bytes: Buffer): boolean => {
  const isZero = (from: number, to: number): boolean => bytes.subarray(from, to).every((byte) => byte === 0);
  if (!isZero(BOOT_ID_AT, USED_BYTES)) return false;
  return (
    isZero(0, USED_BYTES) ||
    isZero(CRC_AT, MAP_HEADER_BYTES) ||
    crc32(bytes.subarray(0, CRC_AT)) === bytes.readUInt32LE(CRC_AT)
  );
};
