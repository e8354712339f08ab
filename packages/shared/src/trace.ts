/**
 * Boot trace, version 2 (docs/formats/trace.md): first touches of one boot, in order; where a server has a boot object of them, how it is divided.
 *
 *   magic 4 | version number 4 | disk root 32 | blockBytes 4 | touch count 4 | segment count 4
 *   { blockIndex 4 | afterMs 4 | phase 1 | chunkBytes 4 }* | object 32, if there are segments | { touches 2 | byteLength 4 }*
 */
import { type Digest } from './brands.js';
import { ByteReader, magicBytes } from './byte-reader.js';
import { digestBytes, digestFromBytes } from './digest.js';
import { CollectiveError } from './errors.js';

/** 0 firmware, 1 kernel, 2 login, 3 idle. */
export type BootPhase = 0 | 1 | 2 | 3;
export type TraceTouch = {
  readonly blockIndex: number;
  readonly afterMs: number;
  readonly phase: BootPhase;
  /** How long the block's chunk is; 0: not known. A hint for whoever fetches it. */
  readonly chunkBytes: number;
};
export type BootTrace = {
  /** Number of the appliance's version. */
  readonly version: number;
  readonly root: Digest;
  readonly blockBytes: number;
  /** Distinct blocks; times not descending. */
  readonly touches: readonly TraceTouch[];
  /** Only of a trace that a server gives. */
  readonly object?: BootObject | undefined;
};
/** The blocks of a trace, all of them and in its order, in one object (boot-object.ts). */
export type BootObject = {
  /** Of the whole object: its name. */
  readonly digest: Digest;
  readonly segments: readonly BootSegment[];
};
/** `touches`: how many blocks it holds; `byteLength`: how long it is in the object. */
export type BootSegment = { readonly touches: number; readonly byteLength: number };

/** 1 GiB in blocks of 64 KiB: more than a boot touches, and little enough that many of them are decoded and merged while others wait. */
export const TRACE_TOUCHES_MAX = 2 ** 14;

/** Blocks of one segment: little is lost when one is wanted before the others, and 16 are compressed nearly as well as all together. */
export const SEGMENT_TOUCHES_MAX = 64;
/** What a frame adds to content that does not compress. */
const SEGMENT_OVERHEAD_MAX = 4_096;

const MAGIC = magicBytes('CTR', 2);
const HEADER_BYTES = 52;
const TOUCH_BYTES = 13;
const DIGEST_BYTES = 32;
const SEGMENT_BYTES = 6;
export const TRACE_BYTES_MAX = HEADER_BYTES + TRACE_TOUCHES_MAX * (TOUCH_BYTES + SEGMENT_BYTES) + DIGEST_BYTES;

export const encodeBootTrace = (trace: BootTrace): Buffer => {
  const { touches, object } = trace;
  const segments = object?.segments ?? [];
  if (touches.length > TRACE_TOUCHES_MAX)
    throw new CollectiveError('too-large', `boot trace: ${touches.length} touches, at most ${TRACE_TOUCHES_MAX}`);
  const objectAt = HEADER_BYTES + touches.length * TOUCH_BYTES;
  const bytes = Buffer.alloc(objectAt + objectSectionBytes(segments.length));
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
  if (object === undefined || segments.length === 0) return bytes;
  digestBytes(object.digest).copy(bytes, objectAt);
  segments.forEach((segment, index) => {
    const at = objectAt + DIGEST_BYTES + index * SEGMENT_BYTES;
    bytes.writeUInt16LE(segment.touches, at);
    bytes.writeUInt32LE(segment.byteLength, at + 2);
  });
  return bytes;
};

const objectSectionBytes = (segmentCount: number): number =>
  segmentCount === 0 ? 0 : DIGEST_BYTES + segmentCount * SEGMENT_BYTES;

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
  if (reader.bytesLeft !== count * TOUCH_BYTES + objectSectionBytes(segmentCount))
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
  const object = segmentCount === 0 ? undefined : readObject(reader, { segmentCount, count, blockBytes });
  reader.end();
  return { version, root, blockBytes, touches, ...(object === undefined ? {} : { object }) };
};

const readObject = (
  reader: ByteReader,
  of: { readonly segmentCount: number; readonly count: number; readonly blockBytes: number },
): BootObject => {
  const digest = digestFromBytes(reader.take(DIGEST_BYTES));
  const segments: BootSegment[] = [];
  let held = 0;
  for (let index = 0; index < of.segmentCount; index += 1) {
    const touches = reader.u16();
    const byteLength = reader.u32();
    if (touches < 1 || touches > SEGMENT_TOUCHES_MAX) throw reader.error(`segment ${index} has ${touches} blocks`);
    if (byteLength < 1 || byteLength > touches * of.blockBytes + SEGMENT_OVERHEAD_MAX)
      throw reader.error(`segment ${index} has ${byteLength} bytes for ${touches} blocks`);
    held += touches;
    segments.push({ touches, byteLength });
  }
  if (held !== of.count) throw reader.error(`the segments hold ${held} blocks of ${of.count}`);
  return { digest, segments };
};

const isPhase = (phase: number): phase is BootPhase => phase <= 3;
