/**
 * Boot trace, version 2 (docs/formats/trace.md): first touches of one boot, in order; where a server has packed their blocks, the segments.
 *
 *   magic 4 | version number 4 | disk root 32 | blockBytes 4 | touch count 4 | segment count 4
 *   { blockIndex 4 | afterMs 4 | phase 1 | chunkBytes 4 }* | { digest 32 | touches 2 | chunkBytes 4 }*
 */
import { type Digest } from './brands.js';
import { ByteReader, magicBytes } from './byte-reader.js';
import { CHUNK_BYTES_MAX, CHUNK_HEADER_BYTES, CHUNK_PLAIN_BYTES_MAX } from './chunk.js';
import { digestBytes, digestFromBytes } from './digest.js';
import { CollectiveError } from './errors.js';

/** What a machine does: idle from its login prompt on. */
export const BOOT_PHASE = { firmware: 0, kernel: 1, login: 2, idle: 3 } as const;
export type BootPhase = (typeof BOOT_PHASE)[keyof typeof BOOT_PHASE];
export type TraceTouch = {
  readonly blockIndex: number;
  readonly afterMs: number;
  readonly phase: BootPhase;
  /** How long the block's chunk is; 0: not known. A hint for whoever fetches it. */
  readonly chunkBytes: number;
};
export type BootTrace = {
  /** Number of the appliance's version; with `root` of its disk. Of a user disk's trace: private-trace.ts. */
  readonly version: number;
  readonly root: Digest;
  readonly blockBytes: number;
  /** Distinct blocks; times not descending. */
  readonly touches: readonly TraceTouch[];
  /** The boot object: all blocks of the trace in its order. Only of a trace that a server gives. */
  readonly segments?: readonly BootSegment[] | undefined;
};
/** A chunk that holds the next `touches` blocks of a trace (boot-object.ts), and how long it is. */
export type BootSegment = { readonly digest: Digest; readonly touches: number; readonly chunkBytes: number };

/** 1 GiB in blocks of 64 KiB: more than a boot touches, and little enough that many of them are decoded and merged while others wait. */
export const TRACE_TOUCHES_MAX = 2 ** 14;

const MAGIC = magicBytes('CTR', 2);
const HEADER_BYTES = 52;
const TOUCH_BYTES = 13;
const DIGEST_BYTES = 32;
const SEGMENT_BYTES = DIGEST_BYTES + 6;
/** Of a trace with so many touches and no segments. */
export const traceBytes = (touches: number): number => HEADER_BYTES + touches * TOUCH_BYTES;
export const TRACE_BYTES_MAX = traceBytes(TRACE_TOUCHES_MAX) + TRACE_TOUCHES_MAX * SEGMENT_BYTES;

export const encodeBootTrace = (trace: BootTrace): Buffer => {
  const { touches, segments = [] } = trace;
  if (touches.length > TRACE_TOUCHES_MAX)
    throw new CollectiveError('too-large', `boot trace: ${touches.length} touches, at most ${TRACE_TOUCHES_MAX}`);
  const segmentsAt = HEADER_BYTES + touches.length * TOUCH_BYTES;
  const bytes = Buffer.alloc(segmentsAt + segments.length * SEGMENT_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(trace.version, 4);
  digestBytes(trace.root).copy(bytes, 8);
  bytes.writeUInt32LE(trace.blockBytes, 40);
  bytes.writeUInt32LE(touches.length, 44);
  bytes.writeUInt32LE(segments.length, 48);
  touches.forEach((touch, index) => {
    const at = HEADER_BYTES + index * TOUCH_BYTES;
    bytes.writeUInt32LE(touch.blockIndex, at);
    bytes.writeUInt32LE(touch.afterMs, at + 4);
    bytes.writeUInt8(touch.phase, at + 8);
    bytes.writeUInt32LE(touch.chunkBytes, at + 9);
  });
  segments.forEach((segment, index) => {
    const at = segmentsAt + index * SEGMENT_BYTES;
    digestBytes(segment.digest).copy(bytes, at);
    bytes.writeUInt16LE(segment.touches, at + DIGEST_BYTES);
    bytes.writeUInt32LE(segment.chunkBytes, at + DIGEST_BYTES + 2);
  });
  return bytes;
};

/**
 * Errors: `malformed` (a block twice, times that descend, an unknown phase, a wrong length, segments that do not hold each touch once), `unknown-format`,
 * `too-large`.
 */
export const decodeBootTrace = (bytes: Uint8Array): BootTrace => {
  const reader = new ByteReader(bytes, 'boot trace');
  reader.magic(MAGIC);
  const version = reader.u32();
  const root = digestFromBytes(reader.take(32));
  const blockBytes = reader.u32();
  const isPowerOfTwo = (blockBytes & (blockBytes - 1)) === 0;
  if (blockBytes < 4096 || blockBytes > 1_048_576 || !isPowerOfTwo)
    throw reader.error(`blocks of ${blockBytes} bytes do not exist`);
  const count = reader.u32();
  if (count > TRACE_TOUCHES_MAX)
    throw new CollectiveError('too-large', `boot trace: ${count} touches, at most ${TRACE_TOUCHES_MAX}`);
  const segmentCount = reader.u32();
  if (segmentCount > count) throw reader.error(`${segmentCount} segments of ${count} touches`);
  if (reader.bytesLeft !== count * TOUCH_BYTES + segmentCount * SEGMENT_BYTES)
    throw reader.error(`${count} touches and ${segmentCount} segments do not fit into ${reader.bytesLeft} bytes`);
  const seen = new Set<number>();
  const touches: TraceTouch[] = [];
  let lastMs = 0;
  for (let index = 0; index < count; index += 1) {
    const blockIndex = reader.u32();
    const afterMs = reader.u32();
    const phase = reader.u8();
    const chunkBytes = reader.u32();
    if (seen.has(blockIndex)) throw reader.error(`block ${blockIndex} is there twice`);
    if (afterMs < lastMs) throw reader.error(`touch ${index} is earlier than the one before`);
    if (!isPhase(phase)) throw reader.error(`phase ${phase} is not known`);
    seen.add(blockIndex);
    lastMs = afterMs;
    touches.push({ blockIndex, afterMs, phase, chunkBytes });
  }
  const segments = readSegments(reader, { segmentCount, count, blockBytes });
  reader.end();
  return { version, root, blockBytes, touches, ...(segments.length === 0 ? {} : { segments }) };
};

const readSegments = (
  reader: ByteReader,
  of: { readonly segmentCount: number; readonly count: number; readonly blockBytes: number },
): BootSegment[] => {
  const segments: BootSegment[] = [];
  let held = 0;
  for (let index = 0; index < of.segmentCount; index += 1) {
    const digest = digestFromBytes(reader.take(DIGEST_BYTES));
    const touches = reader.u16();
    const chunkBytes = reader.u32();
    if (touches < 1 || touches * of.blockBytes > CHUNK_PLAIN_BYTES_MAX)
      throw reader.error(`segment ${index} has ${touches} blocks`);
    if (chunkBytes < CHUNK_HEADER_BYTES || chunkBytes > CHUNK_BYTES_MAX)
      throw reader.error(`segment ${index} has ${chunkBytes} bytes`);
    held += touches;
    segments.push({ digest, touches, chunkBytes });
  }
  if (segments.length > 0 && held !== of.count) throw reader.error(`the segments hold ${held} blocks of ${of.count}`);
  return segments;
};

const isPhase = (phase: number): phase is BootPhase => phase <= 3;
