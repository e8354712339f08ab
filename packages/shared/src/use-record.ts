/**
 * Use record, version 1 (docs/formats/use.md): which blocks of a published disk one session touched, in the order of their first touches and in bursts. The
 * first burst is the boot, each other one what was first touched without a rest between: an application that was started, mostly.
 *
 *   magic 4 | version number 4 | disk root 32 | blockBytes 4 | burst count 4 | { touches 4 }* | { blockIndex 4 }*
 */
import { type Digest } from './brands.js';
import { ByteReader, magicBytes } from './byte-reader.js';
import { digestBytes, digestFromBytes } from './digest.js';
import { isBlockBytes } from './disk-shape.js';
import { CollectiveError } from './errors.js';
import { type TraceTouch, TRACE_TOUCHES_MAX } from './trace.js';

export type UseRecord = {
  /** Number of the appliance's version; with `root` of its disk. */
  readonly version: number;
  readonly root: Digest;
  readonly blockBytes: number;
  /** None is empty; each block is in it once. */
  readonly bursts: readonly (readonly number[])[];
};

/** 1 GiB in blocks of 64 KiB; what a session touches beyond that is left out. */
export const USE_TOUCHES_MAX = TRACE_TOUCHES_MAX;
/**
 * A burst ends after so long without a first touch. A starting application that is emulated computes for some seconds between two blocks, and one that waits
 * for the line asks for its next block when the one before has come; a person who has just started one takes longer to start the next.
 */
export const BURST_REST_MS = 5_000;

const MAGIC = magicBytes('CUR', 1);
const HEADER_BYTES = 48;
const WORD_BYTES = 4;
export const USE_RECORD_BYTES_MAX = HEADER_BYTES + 2 * USE_TOUCHES_MAX * WORD_BYTES;

/** `bootTouches`: so many of the first touches are the boot's. */
export const burstsOf = (
  touches: readonly Pick<TraceTouch, 'blockIndex' | 'afterMs'>[],
  bootTouches: number,
): number[][] => {
  const bursts: number[][] = [];
  let burst: number[] = [];
  let lastMs = 0;
  for (const [at, { blockIndex, afterMs }] of touches.slice(0, USE_TOUCHES_MAX).entries()) {
    const isNew = at >= bootTouches && (at === bootTouches || afterMs - lastMs >= BURST_REST_MS);
    if (at === 0 || isNew) {
      burst = [];
      bursts.push(burst);
    }
    burst.push(blockIndex);
    lastMs = afterMs;
  }
  return bursts;
};

/** Errors: `too-large`. */
export const encodeUseRecord = ({ version, root, blockBytes, bursts }: UseRecord): Buffer => {
  const touches = bursts.flat();
  if (touches.length > USE_TOUCHES_MAX) throw tooMany(touches.length);
  const bytes = Buffer.alloc(HEADER_BYTES + (bursts.length + touches.length) * WORD_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(version, 4);
  digestBytes(root).copy(bytes, 8);
  bytes.writeUInt32LE(blockBytes, 40);
  bytes.writeUInt32LE(bursts.length, 44);
  [...bursts.map(({ length }) => length), ...touches].forEach((word, at) =>
    bytes.writeUInt32LE(word, HEADER_BYTES + at * WORD_BYTES),
  );
  return bytes;
};

/** Errors: `malformed` (a block twice, an empty burst, a wrong length), `unknown-format`, `too-large`. */
export const decodeUseRecord = (bytes: Uint8Array): UseRecord => {
  const reader = new ByteReader(bytes, 'use record');
  reader.magic(MAGIC);
  const version = reader.u32();
  const root = digestFromBytes(reader.take(32));
  const blockBytes = reader.u32();
  if (!isBlockBytes(blockBytes)) throw reader.error(`blocks of ${blockBytes} bytes do not exist`);
  const burstCount = reader.u32();
  const touchCount = Math.floor(reader.bytesLeft / WORD_BYTES) - burstCount;
  if (touchCount < burstCount) throw reader.error(`${burstCount} bursts do not fit into ${reader.bytesLeft} bytes`);
  if (touchCount > USE_TOUCHES_MAX) throw tooMany(touchCount);
  const lengths = Array.from({ length: burstCount }, () => reader.u32());
  const held = lengths.reduce((sum, length) => sum + length, 0);
  if (lengths.includes(0)) throw reader.error(`burst ${lengths.indexOf(0)} is empty`);
  if (held !== touchCount) throw reader.error(`its bursts have ${held} touches, of which ${touchCount} are there`);
  const seen = new Set<number>();
  const bursts = lengths.map((length) =>
    Array.from({ length }, () => {
      const blockIndex = reader.u32();
      if (seen.has(blockIndex)) throw reader.error(`block ${blockIndex} is there twice`);
      seen.add(blockIndex);
      return blockIndex;
    }),
  );
  reader.end();
  return { version, root, blockBytes, bursts };
};

const tooMany = (touches: number): CollectiveError =>
  new CollectiveError('too-large', `use record: ${touches} touches, at most ${USE_TOUCHES_MAX}`);
