/**
 * The transmission phase of one connection: requests to the device, replies to the output.
 *
 * The hot way has no promise and no allocation per request: a read that is in memory goes straight into the reply arena,
 * a write straight from the receive buffer into the device. What would have to wait takes the slow way, with its own
 * buffer, and counts against the limits of the connection. Every request is answered; a bad one with an error.
 */
import { CollectiveError } from '@collective/shared';
import type { BlockDevice } from '../block-device.js';
import { RequestTap } from '../request-recording-tap.js';
import { blockStatusPayload } from './block-status.js';
import type { BusyTime } from './busy-time.js';
import type { Connection } from './connection.js';
import type { Negotiated } from './handshake.js';
import type { NbdExport } from './nbd-export.js';
import { NBD_LIMITS } from './nbd-limits.js';
import {
  COMMAND,
  COMMAND_FLAG,
  DATA_CHUNK_BYTES,
  NBD_ERRNO,
  REPLY_FLAG_DONE,
  REPLY_TYPE,
  SIMPLE_REPLY_BYTES,
} from './nbd-protocol.js';
import { ReplyOutput } from './reply-output.js';
import type { RequestSink } from './request-parser.js';
import { isZero } from './zeroes.js';

export type TransmissionEvents = {
  /** An operation has ended, or room has appeared: look again at `canTake` and `isIdle`. */
  readonly changed: () => void;
  /** The client has said DISC, or its stream makes no sense: take no more requests. */
  readonly finished: () => void;
  /** A request failed for a reason other than the request itself. */
  readonly failed: (error: unknown) => void;
};

/** Reads of holes shorter than this are sent as data. */
const HOLE_BYTES_MIN = 512;
/** Longer reads are looked at for holes in pieces of this size, aligned on the disk. */
const HOLE_PIECE_BYTES = 64 << 10;

const NO_PAYLOAD = Buffer.alloc(0);

const ALLOWED_FLAGS: Readonly<Record<number, number>> = {
  [COMMAND.read]: COMMAND_FLAG.fua | COMMAND_FLAG.df,
  [COMMAND.write]: COMMAND_FLAG.fua,
  [COMMAND.disconnect]: COMMAND_FLAG.fua,
  [COMMAND.flush]: COMMAND_FLAG.fua,
  [COMMAND.trim]: COMMAND_FLAG.fua,
  [COMMAND.cache]: COMMAND_FLAG.fua,
  [COMMAND.writeZeroes]: COMMAND_FLAG.fua | COMMAND_FLAG.noHole | COMMAND_FLAG.fastZero,
  [COMMAND.blockStatus]: COMMAND_FLAG.fua | COMMAND_FLAG.reqOne,
};

export class Transmission implements RequestSink {
  readonly #device: BlockDevice;
  readonly #connection: Connection;
  readonly #events: TransmissionEvents;
  readonly #output: ReplyOutput;
  readonly #structured: boolean;
  readonly #allocationContext: boolean;
  /** Aborts what still waits when the client is gone. */
  readonly #abort = new AbortController();
  readonly #busy: BusyTime;
  readonly #export: NbdExport;
  readonly #tap = new RequestTap();
  #isInBatch = false;
  #inFlight = 0;
  #inFlightBytes = 0;
  #batchRequests = 0;
  #isStopped = false;
  #flushScheduled = false;

  constructor(negotiated: Negotiated, connection: Connection, events: TransmissionEvents) {
    this.#device = negotiated.nbdExport.device;
    this.#busy = negotiated.nbdExport.busy;
    this.#export = negotiated.nbdExport;
    this.#structured = negotiated.structuredReplies;
    this.#allocationContext = negotiated.allocationContext;
    this.#connection = connection;
    this.#events = events;
    this.#output = new ReplyOutput(connection, { publish: () => this.#publish(), tap: this.#tap });
  }

  get canTake(): boolean {
    return (
      !this.#isStopped &&
      this.#batchRequests < NBD_LIMITS.batchRequestsMax &&
      this.#inFlight < NBD_LIMITS.inFlightRequestsMax &&
      this.#inFlightBytes < NBD_LIMITS.inFlightBytesMax &&
      this.#connection.unsentBytes < NBD_LIMITS.unsentBytesMax
    );
  }

  /** No operation is under way. */
  get isIdle(): boolean {
    return this.#inFlight === 0;
  }

  /** Takes no more requests; what is under way goes on. */
  stop(): void {
    this.#isStopped = true;
  }

  /** Nobody waits for replies any more: what waits for a block gives up. */
  abandon(): void {
    this.#isStopped = true;
    this.#abort.abort();
  }

  /** Requests have arrived; may be called more than once before `batchEnded`. */
  batchStarted(): void {
    if (this.#isInBatch) return;
    this.#isInBatch = true;
    this.#busy.begin();
    const { recording } = this.#export;
    if (recording !== undefined) this.#tap.batchArrived(recording);
  }

  /** Sends what was put together. */
  batchEnded(): void {
    this.#output.flush();
    if (this.#isInBatch) this.#busy.end();
    this.#isInBatch = false;
    if (this.#batchRequests >= NBD_LIMITS.batchRequestsMax) setImmediate(() => this.#events.changed());
    this.#batchRequests = 0;
  }

  brokenStream(): void {
    this.#isStopped = true;
    this.#events.finished();
  }

  request(
    command: number,
    flags: number,
    cookieHigh: number,
    cookieLow: number,
    byteOffset: number,
    byteLength: number,
  ): void {
    this.#batchRequests += 1;
    const { recording } = this.#export;
    if (recording !== undefined && command !== COMMAND.disconnect)
      this.#tap.requested(recording, command, flags, cookieHigh, cookieLow, byteOffset, byteLength);
    const allowedFlags = ALLOWED_FLAGS[command];
    if (allowedFlags === undefined || (flags & ~allowedFlags) !== 0) {
      return this.#error(command, cookieHigh, cookieLow, NBD_ERRNO.EINVAL);
    }
    switch (command) {
      case COMMAND.read:
        return this.#read(flags, cookieHigh, cookieLow, byteOffset, byteLength);
      case COMMAND.disconnect:
        this.#isStopped = true;
        return this.#events.finished();
      case COMMAND.flush:
        return this.#flush(cookieHigh, cookieLow);
      case COMMAND.trim:
      case COMMAND.writeZeroes:
        return this.#trimOrZero(command, flags, cookieHigh, cookieLow, byteOffset, byteLength);
      case COMMAND.cache:
        if (!this.#isInside(byteOffset, byteLength))
          return this.#output.simple(cookieHigh, cookieLow, NBD_ERRNO.EINVAL);
        this.#device.warm(byteOffset, byteLength);
        return this.#output.simple(cookieHigh, cookieLow, 0);
      default:
        return this.#blockStatus(flags, cookieHigh, cookieLow, byteOffset, byteLength);
    }
  }

  admitWrite(flags: number, cookieHigh: number, cookieLow: number, byteOffset: number, byteLength: number): boolean {
    this.#batchRequests += 1;
    const { recording } = this.#export;
    if (recording !== undefined)
      this.#tap.requested(recording, COMMAND.write, flags, cookieHigh, cookieLow, byteOffset, byteLength);
    let errno = 0;
    if (this.#device.readOnly) errno = NBD_ERRNO.EPERM;
    else if ((flags & ~COMMAND_FLAG.fua) !== 0 || byteLength > NBD_LIMITS.requestBytesMax) errno = NBD_ERRNO.EINVAL;
    else if (!this.#isInside(byteOffset, byteLength)) errno = NBD_ERRNO.ENOSPC;
    if (errno === 0) return true;
    this.#output.simple(cookieHigh, cookieLow, errno);
    return false;
  }

  write(
    flags: number,
    cookieHigh: number,
    cookieLow: number,
    byteOffset: number,
    payload: Buffer,
    isBorrowed: boolean,
  ): void {
    const device = this.#device;
    const durable = (flags & COMMAND_FLAG.fua) !== 0;
    if (device.tryWrite(payload, byteOffset)) {
      if (!durable) return this.#output.acknowledgement(cookieHigh, cookieLow);
      return this.#change(cookieHigh, cookieLow, 0, Promise.resolve(), durable);
    }
    const own = isBorrowed ? Buffer.from(payload) : payload;
    this.#change(cookieHigh, cookieLow, payload.length, device.write(own, byteOffset), durable);
  }

  #read(flags: number, cookieHigh: number, cookieLow: number, byteOffset: number, byteLength: number): void {
    const device = this.#device;
    if (byteLength > NBD_LIMITS.requestBytesMax || byteOffset + byteLength > device.byteLength) {
      return this.#error(COMMAND.read, cookieHigh, cookieLow, NBD_ERRNO.EINVAL);
    }
    if (byteLength === 0) return this.#nothing(cookieHigh, cookieLow); // a chunk of data must hold some
    if (byteLength <= NBD_LIMITS.arenaReadBytesMax) {
      const output = this.#output;
      if (this.#structured) {
        const view = output.open(DATA_CHUNK_BYTES, byteLength);
        if (device.tryRead(view, byteOffset)) {
          if (byteLength >= HOLE_BYTES_MIN && isZero(view)) {
            return output.hole(REPLY_FLAG_DONE, cookieHigh, cookieLow, byteOffset, byteLength);
          }
          return output.closeData(cookieHigh, cookieLow, byteOffset, byteLength);
        }
      } else {
        const view = output.open(SIMPLE_REPLY_BYTES, byteLength);
        if (device.tryRead(view, byteOffset)) return output.closeSimple(cookieHigh, cookieLow, byteLength);
      }
    }
    this.#readWaiting(flags, cookieHigh, cookieLow, byteOffset, byteLength);
  }

  #nothing(cookieHigh: number, cookieLow: number): void {
    if (this.#structured) this.#output.chunk(REPLY_TYPE.none, cookieHigh, cookieLow, NO_PAYLOAD);
    else this.#output.simple(cookieHigh, cookieLow, 0);
  }

  #readWaiting(flags: number, cookieHigh: number, cookieLow: number, byteOffset: number, byteLength: number): void {
    const target = Buffer.allocUnsafeSlow(byteLength);
    this.#begin(byteLength);
    this.#device.read(target, byteOffset, { signal: this.#abort.signal }).then(
      () => {
        if (!this.#structured) this.#output.simpleData(cookieHigh, cookieLow, target);
        else if ((flags & COMMAND_FLAG.df) !== 0) {
          this.#output.data(REPLY_FLAG_DONE, cookieHigh, cookieLow, byteOffset, target);
        } else this.#dataAndHoles(cookieHigh, cookieLow, byteOffset, target);
        this.#ended(byteLength);
      },
      (error: unknown) => {
        this.#error(COMMAND.read, cookieHigh, cookieLow, this.#errno(error));
        this.#ended(byteLength);
      },
    );
  }

  /** The answer to a read as runs of data and holes. */
  #dataAndHoles(cookieHigh: number, cookieLow: number, byteOffset: number, data: Buffer): void {
    let runStart = 0;
    let runIsHole = false;
    let position = 0;
    const closeRun = (flags: number): void => {
      if (position === runStart) return;
      if (runIsHole) this.#output.hole(flags, cookieHigh, cookieLow, byteOffset + runStart, position - runStart);
      else this.#output.data(flags, cookieHigh, cookieLow, byteOffset + runStart, data.subarray(runStart, position));
    };
    while (position < data.length) {
      const pieceEnd = Math.min(
        data.length,
        position + HOLE_PIECE_BYTES - ((byteOffset + position) % HOLE_PIECE_BYTES),
      );
      const pieceIsHole = pieceEnd - position >= HOLE_BYTES_MIN && isZero(data.subarray(position, pieceEnd));
      if (pieceIsHole !== runIsHole) {
        closeRun(0);
        runStart = position;
        runIsHole = pieceIsHole;
      }
      position = pieceEnd;
    }
    closeRun(REPLY_FLAG_DONE);
  }

  #flush(cookieHigh: number, cookieLow: number): void {
    this.#begin(0);
    this.#device.flush().then(
      () => {
        this.#output.simple(cookieHigh, cookieLow, 0);
        this.#ended(0);
      },
      (error: unknown) => {
        this.#output.simple(cookieHigh, cookieLow, this.#errno(error));
        this.#ended(0);
      },
    );
  }

  #trimOrZero(
    command: number,
    flags: number,
    cookieHigh: number,
    cookieLow: number,
    byteOffset: number,
    byteLength: number,
  ): void {
    const device = this.#device;
    let errno = 0;
    if (device.readOnly) errno = NBD_ERRNO.EPERM;
    else if (!this.#isInside(byteOffset, byteLength)) {
      errno = command === COMMAND.trim ? NBD_ERRNO.EINVAL : NBD_ERRNO.ENOSPC;
    } else if ((flags & COMMAND_FLAG.fastZero) !== 0 && device.zeroIsFast !== true) errno = NBD_ERRNO.ENOTSUP;
    if (errno !== 0) return this.#output.simple(cookieHigh, cookieLow, errno);
    const work =
      command === COMMAND.trim
        ? device.trim(byteOffset, byteLength)
        : device.zero(byteOffset, byteLength, { keepAllocated: (flags & COMMAND_FLAG.noHole) !== 0 });
    this.#change(cookieHigh, cookieLow, 0, work, (flags & COMMAND_FLAG.fua) !== 0);
  }

  #blockStatus(flags: number, cookieHigh: number, cookieLow: number, byteOffset: number, byteLength: number): void {
    if (!this.#allocationContext || byteLength === 0 || !this.#isInside(byteOffset, byteLength)) {
      return this.#error(COMMAND.blockStatus, cookieHigh, cookieLow, NBD_ERRNO.EINVAL);
    }
    try {
      const one = (flags & COMMAND_FLAG.reqOne) !== 0;
      const payload = blockStatusPayload(this.#device, byteOffset, byteLength, one ? 1 : NBD_LIMITS.extentsMax);
      this.#output.chunk(REPLY_TYPE.blockStatus, cookieHigh, cookieLow, payload);
    } catch (error) {
      this.#error(COMMAND.blockStatus, cookieHigh, cookieLow, this.#errno(error));
    }
  }

  /** Waits for a change of the disk, makes it durable when asked, and acknowledges it. */
  #change(cookieHigh: number, cookieLow: number, byteLength: number, work: Promise<void>, durable: boolean): void {
    this.#begin(byteLength);
    const whole = durable ? work.then(() => this.#device.flush()) : work;
    whole.then(
      () => {
        this.#output.acknowledgement(cookieHigh, cookieLow);
        this.#ended(byteLength);
      },
      (error: unknown) => {
        this.#output.simple(cookieHigh, cookieLow, this.#errno(error));
        this.#ended(byteLength);
      },
    );
  }

  #begin(byteLength: number): void {
    this.#inFlight += 1;
    this.#inFlightBytes += byteLength;
    this.#busy.begin();
  }

  #ended(byteLength: number): void {
    this.#inFlight -= 1;
    this.#inFlightBytes -= byteLength;
    this.#busy.end();
    if (this.#flushScheduled) return;
    // Completions come in bunches; their replies leave together.
    this.#flushScheduled = true;
    setImmediate(() => {
      this.#flushScheduled = false;
      this.#output.flush();
      this.#events.changed();
    });
  }

  #publish(): number {
    try {
      this.#device.publishWrites();
      return 0;
    } catch (error) {
      return this.#errno(error);
    }
  }

  #isInside(byteOffset: number, byteLength: number): boolean {
    return byteOffset + byteLength <= this.#device.byteLength;
  }

  /** Reads and block status are answered in chunks where these were negotiated, all else simply. */
  #error(command: number, cookieHigh: number, cookieLow: number, errno: number): void {
    if (!this.#structured || (command !== COMMAND.read && command !== COMMAND.blockStatus)) {
      return this.#output.simple(cookieHigh, cookieLow, errno);
    }
    const payload = Buffer.alloc(6); // errno u32 · message length u16 · message
    payload.writeUInt32BE(errno, 0);
    this.#output.chunk(REPLY_TYPE.error, cookieHigh, cookieLow, payload);
  }

  #errno(error: unknown): number {
    if (!this.#abort.signal.aborted) this.#events.failed(error);
    return error instanceof CollectiveError ? error.row.nbdErrno : NBD_ERRNO.EIO;
  }
}
