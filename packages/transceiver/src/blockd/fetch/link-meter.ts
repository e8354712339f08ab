/** What the line did: bytes, rate and round trip, for `status` and for the limits that depend on it. */
import type { Line } from './scheduler-plan.js';
import { afterBytes, afterFirstByte, SLOW_START, type SlowStart } from './slow-start.js';

/** Short: what a line can do is known after the first one that was full, and until then prefetch holds back. */
const WINDOW_MS = 100;
const WINDOWS = 40;
/** While traffic goes on, a rate is that of so many windows: what has waited in a stall comes all at once, and is no rate of the line. */
const RATE_WINDOWS = 5;
/** What is left of the peak after each half second with traffic: a tenth after 22 s. A burst after a stall is forgotten in two or three. */
const PEAK_KEPT = 0.95;
const PEAK_KEPT_MS = 500;
/**
 * The shortest time to a first byte is looked for among so many answers: many, because those that come while the line is full
 * have waited behind each other and say nothing about the way.
 */
const ROUND_TRIP_SAMPLES = 512;

/** Of one chunk in the mean of the last ones. */
const CHUNK_WEIGHT = 1 / 8;

export type LinkStatus = {
  readonly bytes: number;
  /** Mean of the last seconds. */
  readonly bytesPerSecond: number;
  readonly roundTripMs: number;
  readonly requests: number;
};

export class LinkMeter {
  readonly #nowMs: () => number;
  /** Bytes of the last windows, by window number. */
  readonly #windowBytes = new Float64Array(WINDOWS);
  readonly #windowNumbers = new Float64Array(WINDOWS).fill(-1);
  readonly #roundTrips = new Float64Array(ROUND_TRIP_SAMPLES);
  #roundTripMs = 0;
  /** The window before which there was none with traffic. */
  #trafficFrom = 0;
  /** When the peak was lowered last, in half seconds. */
  #loweredAt = -1;
  /** The fastest so far, slowly forgotten while there is traffic: what the line can do, as far as is known. */
  #peakBytesPerSecond = 0;
  #bytes = 0;
  #chunkBytes = 0;
  #requests = 0;
  #slowStart: SlowStart = SLOW_START;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  addBytes(byteLength: number): void {
    this.#bytes += byteLength;
    const nowMs = this.#nowMs();
    this.#slowStart = afterBytes(this.#slowStart, byteLength, nowMs);
    const number = Math.floor(nowMs / WINDOW_MS);
    const at = number % WINDOWS;
    if (this.#windowNumbers[at] !== number) {
      if (this.#windowNumbers[(number - 1) % WINDOWS] !== number - 1) this.#trafficFrom = number;
      this.#windowNumbers[at] = number;
      this.#windowBytes[at] = 0;
    }
    const halfSecond = Math.floor(nowMs / PEAK_KEPT_MS);
    if (halfSecond !== this.#loweredAt) this.#peakBytesPerSecond *= PEAK_KEPT;
    this.#loweredAt = halfSecond;
    this.#windowBytes[at] = (this.#windowBytes[at] ?? 0) + byteLength;
    const windows = Math.min(RATE_WINDOWS, number - this.#trafficFrom + 1);
    let bytes = 0;
    for (let back = 0; back < windows; back += 1) bytes += this.#windowBytes[(number - back) % WINDOWS] ?? 0;
    this.#peakBytesPerSecond = Math.max(this.#peakBytesPerSecond, (bytes * 1000) / (WINDOW_MS * windows));
  }

  /** A request was answered: how long after it was sent its first byte came. */
  addFirstByte(afterMs: number): void {
    const at = this.#requests % ROUND_TRIP_SAMPLES;
    const leavesShortest = this.#requests >= ROUND_TRIP_SAMPLES && this.#roundTrips[at] === this.#roundTripMs;
    this.#roundTrips[at] = afterMs;
    this.#requests += 1;
    if (leavesShortest) this.#roundTripMs = Math.min(...this.#roundTrips);
    else if (this.#requests === 1 || afterMs < this.#roundTripMs) this.#roundTripMs = afterMs;
    const heard = { afterMs, roundTripMs: this.#roundTripMs, nowMs: this.#nowMs() };
    this.#slowStart = afterFirstByte(this.#slowStart, heard);
  }

  /** A chunk has come whole. */
  addChunk(byteLength: number): void {
    this.#chunkBytes += (byteLength - this.#chunkBytes) * (this.#chunkBytes === 0 ? 1 : CHUNK_WEIGHT);
  }

  get line(): Line {
    return {
      roundTripMs: this.#roundTripMs,
      bytesPerSecond: this.#peakBytesPerSecond,
      chunkBytes: this.#chunkBytes,
      slowStartBytes: this.#slowStart.bytesMax,
    };
  }

  get status(): LinkStatus {
    const now = Math.floor(this.#nowMs() / WINDOW_MS);
    let bytes = 0;
    for (let at = 0; at < WINDOWS; at += 1) {
      if (now - (this.#windowNumbers[at] ?? -1) < WINDOWS) bytes += this.#windowBytes[at] ?? 0;
    }
    return {
      bytes: this.#bytes,
      bytesPerSecond: Math.round((bytes * 1000) / (WINDOW_MS * WINDOWS)),
      roundTripMs: this.#roundTripMs,
      requests: this.#requests,
    };
  }
}
