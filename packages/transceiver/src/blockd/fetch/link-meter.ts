/** What the line did: bytes, rate and round trip, for `status` and for the limits that depend on it. */
const WINDOW_MS = 500;
const WINDOWS = 8;
const ROUND_TRIP_SAMPLES = 32;

export type LinkStatus = {
  readonly bytes: number;
  /** Mean of the last seconds. */
  readonly bytesPerSecond: number;
  readonly roundTripMs: number;
  readonly requests: number;
};

export class LinkMeter {
  readonly #nowMs: () => number;
  /** Bytes of the last windows of half a second, by window number. */
  readonly #windowBytes = new Float64Array(WINDOWS);
  readonly #windowNumbers = new Float64Array(WINDOWS).fill(-1);
  readonly #roundTrips: number[] = [];
  #bytes = 0;
  #requests = 0;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  addBytes(byteLength: number): void {
    this.#bytes += byteLength;
    const number = Math.floor(this.#nowMs() / WINDOW_MS);
    const at = number % WINDOWS;
    if (this.#windowNumbers[at] !== number) {
      this.#windowNumbers[at] = number;
      this.#windowBytes[at] = 0;
    }
    this.#windowBytes[at] = (this.#windowBytes[at] ?? 0) + byteLength;
  }

  /** A request was answered: how long its first byte took. */
  addFirstByte(afterMs: number): void {
    this.#requests += 1;
    this.#roundTrips.push(afterMs);
    if (this.#roundTrips.length > ROUND_TRIP_SAMPLES) this.#roundTrips.shift();
  }

  get status(): LinkStatus {
    const now = Math.floor(this.#nowMs() / WINDOW_MS);
    let bytes = 0;
    for (let at = 0; at < WINDOWS; at += 1)
      if (now - (this.#windowNumbers[at] ?? -1) < WINDOWS) bytes += this.#windowBytes[at] ?? 0;
    return {
      bytes: this.#bytes,
      bytesPerSecond: Math.round((bytes * 1000) / (WINDOW_MS * WINDOWS)),
      roundTripMs: this.#roundTrips.length === 0 ? 0 : Math.min(...this.#roundTrips),
      requests: this.#requests,
    };
  }

  /** The fastest half second of the last few: what the line can do, as far as is known. */
  get peakBytesPerSecond(): number {
    return (Math.max(...this.#windowBytes) * 1000) / WINDOW_MS;
  }
}
