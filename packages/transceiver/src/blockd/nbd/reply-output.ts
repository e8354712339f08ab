/**
 * Where replies are put together: arenas that hold header and data of many replies one behind the other, so that reads go
 * straight to their place and a whole batch leaves in one send. Arenas are recycled; nothing is allocated per reply.
 *
 * Write acknowledgements may leave only after the device has published the writes. So `flush` publishes first, and when
 * that fails the acknowledgements of the batch are turned into errors where they lie.
 */
import type { RequestTap } from '../request-recording-tap.js';
import type { Connection } from './connection.js';
import { NBD_LIMITS } from './nbd-limits.js';
import {
  CHUNK_HEADER_BYTES,
  DATA_CHUNK_BYTES,
  REPLY_FLAG_DONE,
  REPLY_TYPE,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './nbd-protocol.js';

/** A buffer and the views that reads fill. Equal batches find their views ready. */
class Arena {
  readonly bytes = Buffer.allocUnsafeSlow(NBD_LIMITS.arenaBytes);
  used = 0;
  readonly #views: Buffer[] = [];
  #viewCount = 0;

  view(start: number, byteLength: number): Buffer {
    const index = this.#viewCount;
    this.#viewCount = index + 1;
    const ready = this.#views[index];
    if (ready !== undefined && ready.byteOffset === start && ready.length === byteLength) return ready;
    const view = this.bytes.subarray(start, start + byteLength);
    this.#views[index] = view;
    return view;
  }

  clear(): void {
    this.used = 0;
    this.#viewCount = 0;
  }
}

const spareArenas: Arena[] = [];

const recycle = (arena: Arena): void => {
  arena.clear();
  if (spareArenas.length < NBD_LIMITS.sparePoolArenasMax) spareArenas.push(arena);
};

export class ReplyOutput {
  readonly #connection: Connection;
  /** Publishes acknowledged writes; returns 0, or the errno that the acknowledgements must become. */
  readonly #publish: () => number;
  readonly #tap: RequestTap;
  #arena: Arena = spareArenas.pop() ?? new Arena();
  /** Where in the arena write acknowledgements lie, for the case that publishing fails. */
  readonly #acknowledgements: number[] = [];

  constructor(connection: Connection, options: { readonly publish: () => number; readonly tap: RequestTap }) {
    this.#connection = connection;
    this.#publish = options.publish;
    this.#tap = options.tap;
  }

  /** Room for a read of `byteLength` behind a header; then call `closeData`, `closeHole` or `closeSimple`, or nothing. */
  open(headerBytes: number, byteLength: number): Buffer {
    if (this.#arena.used + headerBytes + byteLength > this.#arena.bytes.length) this.flush();
    return this.#arena.view(this.#arena.used + headerBytes, byteLength);
  }

  /** The opened read is the whole answer: an OFFSET_DATA chunk with DONE. */
  closeData(cookieHigh: number, cookieLow: number, byteOffset: number, byteLength: number): void {
    this.#dataHeader(REPLY_FLAG_DONE, cookieHigh, cookieLow, byteOffset, byteLength);
    this.#arena.used += DATA_CHUNK_BYTES + byteLength;
  }

  /** The opened read is the whole answer to a client without structured replies. */
  closeSimple(cookieHigh: number, cookieLow: number, byteLength: number): void {
    this.#simpleHeader(cookieHigh, cookieLow, 0);
    this.#arena.used += SIMPLE_REPLY_BYTES + byteLength;
  }

  /** An OFFSET_HOLE chunk. */
  hole(flags: number, cookieHigh: number, cookieLow: number, byteOffset: number, byteLength: number): void {
    this.#reserve(DATA_CHUNK_BYTES + 4);
    this.#chunkHeader(flags, REPLY_TYPE.offsetHole, cookieHigh, cookieLow, 12);
    const { bytes, used } = this.#arena;
    this.#writeOffset(bytes, used + CHUNK_HEADER_BYTES, byteOffset);
    bytes.writeUInt32BE(byteLength, used + DATA_CHUNK_BYTES);
    this.#arena.used += DATA_CHUNK_BYTES + 4;
  }

  /** An OFFSET_DATA chunk whose data lies elsewhere; `data` belongs to the output until it was sent. */
  data(flags: number, cookieHigh: number, cookieLow: number, byteOffset: number, data: Buffer): void {
    this.#reserve(DATA_CHUNK_BYTES);
    this.#dataHeader(flags, cookieHigh, cookieLow, byteOffset, data.length);
    this.#arena.used += DATA_CHUNK_BYTES;
    this.#append(data);
  }

  /** A whole simple read reply; `data` belongs to the output until it was sent. */
  simpleData(cookieHigh: number, cookieLow: number, data: Buffer): void {
    this.simple(cookieHigh, cookieLow, 0);
    this.#append(data);
  }

  /** A structured chunk with a small payload of its own. */
  chunk(replyType: number, cookieHigh: number, cookieLow: number, payload: Buffer): void {
    this.#reserve(CHUNK_HEADER_BYTES);
    this.#chunkHeader(REPLY_FLAG_DONE, replyType, cookieHigh, cookieLow, payload.length);
    this.#arena.used += CHUNK_HEADER_BYTES;
    this.#append(payload);
  }

  /** A reply without data. */
  simple(cookieHigh: number, cookieLow: number, errno: number): void {
    this.#reserve(SIMPLE_REPLY_BYTES);
    this.#simpleHeader(cookieHigh, cookieLow, errno);
    this.#arena.used += SIMPLE_REPLY_BYTES;
  }

  /** A reply that says a write, trim or zero has happened. */
  acknowledgement(cookieHigh: number, cookieLow: number): void {
    this.#reserve(SIMPLE_REPLY_BYTES);
    this.#acknowledgements.push(this.#arena.used);
    this.simple(cookieHigh, cookieLow, 0);
  }

  flush(): void {
    const arena = this.#arena;
    if (arena.used === 0) return arena.clear();
    if (this.#acknowledgements.length > 0) {
      const errno = this.#publish();
      if (errno !== 0) for (const at of this.#acknowledgements) arena.bytes.writeUInt32BE(errno, at + 4);
      this.#acknowledgements.length = 0;
    }
    // Mostly sent at once, and then the next batch goes into the same memory, which the processor still holds.
    this.#connection.send(arena.bytes, arena.used, () => recycle(arena));
    if (this.#tap.unsent > 0) this.#tap.sent();
    this.#arena = spareArenas.pop() ?? new Arena();
  }

  #reserve(byteLength: number): void {
    if (this.#arena.used + byteLength > this.#arena.bytes.length) this.flush();
  }

  #append(data: Buffer): void {
    if (data.length <= this.#arena.bytes.length - this.#arena.used && data.length <= NBD_LIMITS.arenaReadBytesMax) {
      data.copy(this.#arena.bytes, this.#arena.used);
      this.#arena.used += data.length;
      return;
    }
    this.flush();
    this.#connection.send(data, data.length, () => {});
  }

  #simpleHeader(cookieHigh: number, cookieLow: number, errno: number): void {
    const { bytes, used } = this.#arena;
    bytes.writeUInt32BE(SIMPLE_REPLY_MAGIC, used);
    bytes.writeUInt32BE(errno, used + 4);
    bytes.writeUInt32BE(cookieHigh, used + 8);
    bytes.writeUInt32BE(cookieLow, used + 12);
    if (this.#tap.unanswered > 0) this.#tap.answered(cookieHigh, cookieLow, errno !== 0);
  }

  #dataHeader(flags: number, cookieHigh: number, cookieLow: number, byteOffset: number, byteLength: number): void {
    this.#chunkHeader(flags, REPLY_TYPE.offsetData, cookieHigh, cookieLow, 8 + byteLength);
    this.#writeOffset(this.#arena.bytes, this.#arena.used + CHUNK_HEADER_BYTES, byteOffset);
  }

  #chunkHeader(flags: number, replyType: number, cookieHigh: number, cookieLow: number, payloadBytes: number): void {
    const { bytes, used } = this.#arena;
    bytes.writeUInt32BE(STRUCTURED_REPLY_MAGIC, used);
    bytes.writeUInt16BE(flags, used + 4);
    bytes.writeUInt16BE(replyType, used + 6);
    bytes.writeUInt32BE(cookieHigh, used + 8);
    bytes.writeUInt32BE(cookieLow, used + 12);
    bytes.writeUInt32BE(payloadBytes, used + 16);
    if (this.#tap.unanswered > 0 && (flags & REPLY_FLAG_DONE) !== 0)
      this.#tap.answered(cookieHigh, cookieLow, replyType === REPLY_TYPE.error);
  }

  #writeOffset(bytes: Buffer, at: number, byteOffset: number): void {
    const high = Math.floor(byteOffset / 0x1_0000_0000);
    bytes.writeUInt32BE(high, at);
    bytes.writeUInt32BE(byteOffset - high * 0x1_0000_0000, at + 4);
  }
}
