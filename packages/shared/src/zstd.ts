/**
 * The one file that knows the zstd library. Its `_NapiBindings` are semi-private (the package is pinned to one
 * version), but they alone take an output limit: its public `decompress` inflates 8 KiB to 256 MiB without asking.
 * The frame is walked before the library sees it, because the library also accepts several frames in a row.
 *
 * One thread a process: the library keeps one compression and one decompression context in static variables, and two
 * threads that compress (or that decompress) at the same time ruin each other's frames (seen: "Src size is incorrect",
 * and an abort). More cores take processes (transceiver/src/publish/work-pool.ts).
 */
import { _NapiBindings as zstd } from '@cloudpss/zstd/napi';
import { ByteReader, asBuffer } from './byte-reader.js';
import { CollectiveError } from './errors.js';

const FRAME_MAGIC = 0xfd2fb528;

/** One zstd frame that states its content size. `level` 1 to 19: 3 while a person waits, 9 or 19 when nobody does. */
export const compress = (bytes: Uint8Array, level: number): Buffer => zstd.compress(asBuffer(bytes), level);

/**
 * The content of exactly one frame. Errors: `too-large` when the frame states more than `plainBytesMax` (nothing is
 * allocated then), `malformed` for everything else.
 */
export const decompressBounded = (bytes: Uint8Array, plainBytesMax: number): Buffer => {
  const plainBytes = walkFrame(bytes);
  if (plainBytes > plainBytesMax) {
    throw new CollectiveError(
      'too-large',
      `zstd frame: holds ${plainBytes} bytes, at most ${plainBytesMax} are allowed`,
    );
  }
  const plain = inflate(bytes, plainBytes);
  if (plain.length !== plainBytes) {
    throw new CollectiveError('malformed', `zstd frame: holds ${plain.length} bytes but states ${plainBytes}`);
  }
  return plain;
};

const inflate = (bytes: Uint8Array, plainBytes: number): Buffer => {
  try {
    // The library refuses a size that is equal to its limit.
    return zstd.decompress(asBuffer(bytes), plainBytes + 1);
  } catch (error) {
    throw new CollectiveError('malformed', 'zstd frame: cannot be decompressed', { cause: error });
  }
};

/**
 * The stated content size of a frame (RFC 8878, 3.1.1) that ends exactly where `bytes` end. Skippable frames,
 * dictionaries and frames that do not state their content size are refused.
 */
const walkFrame = (bytes: Uint8Array): number => {
  const reader = new ByteReader(bytes, 'zstd frame');
  if (reader.u32() !== FRAME_MAGIC) throw reader.error('does not begin with the magic number');
  const descriptor = reader.u8();
  const sizeFlag = descriptor >> 6;
  const singleSegment = (descriptor & 0x20) !== 0;
  const hasChecksum = (descriptor & 0x04) !== 0;
  if ((descriptor & 0x08) !== 0) throw reader.error('a reserved bit is set');
  if ((descriptor & 0x03) !== 0) throw reader.error('wants a dictionary');
  if (!singleSegment) reader.u8();
  const plainBytes = readContentSize(reader, sizeFlag, singleSegment);
  for (let isLast = false; !isLast;) {
    const header = reader.u8() | (reader.u16() << 8);
    isLast = (header & 1) !== 0;
    const type = (header >> 1) & 3;
    if (type === 3) throw reader.error('a block has the reserved type');
    // An RLE block (type 1) holds one byte, however long it becomes.
    reader.take(type === 1 ? 1 : header >> 3);
  }
  if (hasChecksum) reader.take(4);
  reader.end();
  return plainBytes;
};

const readContentSize = (reader: ByteReader, sizeFlag: number, singleSegment: boolean): number => {
  switch (sizeFlag) {
    case 0:
      if (!singleSegment) throw reader.error('does not state its content size');
      return reader.u8();
    case 1:
      return reader.u16() + 256;
    case 2:
      return reader.u32();
    default:
      return reader.u64();
  }
};
