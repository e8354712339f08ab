/**
 * Cuts the stream of the transmission phase into requests.
 *
 * It is fed with whatever the socket brings, copies nothing when a request lies whole in what was received, holds at most
 * one request's payload, and never throws. It stops when the sink says that it has enough (`canTake` false).
 */
import { NBD_LIMITS } from './nbd-limits.js';
import { COMMAND, REQUEST_BYTES, REQUEST_MAGIC } from './nbd-protocol.js';

/** Takes the requests. `cookieHigh` and `cookieLow` are to be sent back; `byteOffset` may be beyond 2^53 (then inexact). */
export interface RequestSink {
  /** False: the next request must wait. Asked before each one. */
  readonly canTake: boolean;
  /** Any request but WRITE. */
  request(
    command: number,
    flags: number,
    cookieHigh: number,
    cookieLow: number,
    byteOffset: number,
    byteLength: number,
  ): void;
  /** A WRITE's header. False: it was refused (and answered), its payload is thrown away. */
  admitWrite(flags: number, cookieHigh: number, cookieLow: number, byteOffset: number, byteLength: number): boolean;
  /**
   * An admitted WRITE with its payload. `isBorrowed`: the payload is overwritten when the call returns; otherwise it is the
   * sink's for good.
   */
  write(
    flags: number,
    cookieHigh: number,
    cookieLow: number,
    byteOffset: number,
    payload: Buffer,
    isBorrowed: boolean,
  ): void;
  /** The stream cannot be understood from here on; nothing more will come. */
  brokenStream(): void;
}

/** No write's payload is awaited. */
const NONE = -1;

export class RequestParser {
  readonly #sink: RequestSink;
  readonly #header = Buffer.alloc(REQUEST_BYTES);
  #headerFilled = 0;
  /** Length of the payload of the admitted write, or NONE. */
  #payloadBytes = NONE;
  /** Its collected part, when it did not lie whole in one chunk. */
  #payload: Buffer | undefined;
  #payloadFilled = 0;
  #drainBytes = 0;
  #isBroken = false;
  #flags = 0;
  #cookieHigh = 0;
  #cookieLow = 0;
  #byteOffset = 0;

  constructor(sink: RequestSink) {
    this.#sink = sink;
  }

  /** Where the rest of a payload that is being collected may be received directly; tell `received` how much came. */
  get payloadRest(): Buffer | undefined {
    return this.#payload?.subarray(this.#payloadFilled);
  }

  received(byteLength: number): void {
    const payload = this.#payload;
    if (payload === undefined) return;
    this.#payloadFilled += byteLength;
    if (this.#payloadFilled < payload.length) return;
    this.#payload = undefined;
    this.#payloadBytes = NONE;
    this.#sink.write(this.#flags, this.#cookieHigh, this.#cookieLow, this.#byteOffset, payload, false);
  }

  /** Takes what it can of `chunk[start, end)` and returns the new start; less than `end` only when the sink cannot take more. */
  feed(chunk: Buffer, start: number, end: number): number {
    let position = start;
    while (position < end) {
      if (this.#isBroken) return end;
      if (this.#payloadBytes !== NONE) {
        position = this.#feedPayload(chunk, position, end);
      } else if (this.#drainBytes > 0) {
        const taken = Math.min(this.#drainBytes, end - position);
        this.#drainBytes -= taken;
        position += taken;
      } else if (!this.#sink.canTake) {
        return position;
      } else if (this.#headerFilled === 0 && end - position >= REQUEST_BYTES) {
        this.#takeHeader(chunk, position);
        position += REQUEST_BYTES;
      } else {
        const taken = Math.min(REQUEST_BYTES - this.#headerFilled, end - position);
        chunk.copy(this.#header, this.#headerFilled, position, position + taken);
        this.#headerFilled += taken;
        position += taken;
        if (this.#headerFilled === REQUEST_BYTES) {
          this.#headerFilled = 0;
          this.#takeHeader(this.#header, 0);
        }
      }
    }
    return position;
  }

  #takeHeader(chunk: Buffer, at: number): void {
    const sink = this.#sink;
    if (chunk.readUInt32BE(at) !== REQUEST_MAGIC) {
      this.#isBroken = true;
      return sink.brokenStream();
    }
    const flags = chunk.readUInt16BE(at + 4);
    const command = chunk.readUInt16BE(at + 6);
    const cookieHigh = chunk.readUInt32BE(at + 8);
    const cookieLow = chunk.readUInt32BE(at + 12);
    const byteOffset = chunk.readUInt32BE(at + 16) * 0x1_0000_0000 + chunk.readUInt32BE(at + 20);
    const byteLength = chunk.readUInt32BE(at + 24);
    if (command !== COMMAND.write) {
      return sink.request(command, flags, cookieHigh, cookieLow, byteOffset, byteLength);
    }
    if (byteLength > NBD_LIMITS.drainBytesMax) {
      this.#isBroken = true;
      return sink.brokenStream();
    }
    if (!sink.admitWrite(flags, cookieHigh, cookieLow, byteOffset, byteLength)) {
      this.#drainBytes = byteLength;
      return;
    }
    if (byteLength === 0) return sink.write(flags, cookieHigh, cookieLow, byteOffset, NOTHING, false);
    this.#flags = flags;
    this.#cookieHigh = cookieHigh;
    this.#cookieLow = cookieLow;
    this.#byteOffset = byteOffset;
    this.#payloadBytes = byteLength;
  }

  #feedPayload(chunk: Buffer, start: number, end: number): number {
    if (this.#payload === undefined) {
      const payloadEnd = start + this.#payloadBytes;
      if (payloadEnd <= end) {
        this.#payloadBytes = NONE;
        const payload = chunk.subarray(start, payloadEnd);
        this.#sink.write(this.#flags, this.#cookieHigh, this.#cookieLow, this.#byteOffset, payload, true);
        return payloadEnd;
      }
      this.#payload = Buffer.allocUnsafeSlow(this.#payloadBytes);
      this.#payloadFilled = 0;
    }
    const taken = Math.min(this.#payload.length - this.#payloadFilled, end - start);
    chunk.copy(this.#payload, this.#payloadFilled, start, start + taken);
    this.received(taken);
    return start + taken;
  }
}

const NOTHING = Buffer.alloc(0);
