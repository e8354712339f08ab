/**
 * A recording under way: what a machine asks of its disks, from the request `recording-start` to `recording-stop` of the control
 * protocol. One clock for all disks. It is off unless somebody asks; then a disk's NBD export points here, and each of its
 * connections writes through a tap (request-recording-tap.ts). In memory and bounded.
 *
 * The times are those of the wire: arrival is when the batch that held the request was received, the end of service when
 * the batch that held its reply was sent. A device-level clock would make requests that came together look as if each had
 * waited for the one before.
 */
import type { Clock } from './clock.js';
import {
  RECORDED_DISKS_MAX,
  RECORDED_REQUESTS_MAX,
  type RecordedDisk,
  type RecordedRequest,
  type RequestRecordingFile,
} from './request-recording-codec.js';

/** The flags of NBD requests that mean something lie in the lowest bits. */
const FLAGS_MASK = 0x7f;
const COMMAND_MAX = 7;
const LENGTH_MAX = 0xffff_ffff;
const SERVICE_US_MAX = 0xffff_fffe;
const CONNECTION_MAX = 255;

type MutableRequest = { -readonly [K in keyof RecordedRequest]: RecordedRequest[K] };

/** What a recording knows of a request while it is under way. */
export type PendingRequest = MutableRequest;

export class RequestRecording {
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #beganMs: number;
  readonly #requestsMax: number;
  readonly #disks: RecordedDisk[] = [];
  readonly #requests: PendingRequest[] = [];
  #truncated = false;
  #isStopped = false;

  /** `requestsMax`: what comes after so many is not recorded, at most (and by default) what the format has room for. */
  constructor(clock: Pick<Clock, 'nowMs'>, options: { readonly requestsMax?: number } = {}) {
    this.#clock = clock;
    this.#requestsMax = options.requestsMax ?? RECORDED_REQUESTS_MAX;
    this.#beganMs = clock.nowMs();
  }

  get requestCount(): number {
    return this.#requests.length;
  }

  /** Microseconds since the recording was started. */
  nowUs(): number {
    return Math.max(0, Math.round((this.#clock.nowMs() - this.#beganMs) * 1000));
  }

  /** The part for one disk; a disk that is attached again (a reboot) goes on in the same one. Undefined: there are too many. */
  disk(name: string, diskBytes: number): DiskRecording | undefined {
    let index = this.#disks.findIndex((disk) => disk.name === name);
    if (index < 0) {
      if (this.#disks.length >= RECORDED_DISKS_MAX) return undefined;
      index = this.#disks.push({ name, diskBytes }) - 1;
    }
    return new DiskRecording(this, index);
  }

  /** Undefined when the recording is full or over. `request.arrivalUs` must not be before that of the one before. */
  add(request: PendingRequest): PendingRequest | undefined {
    if (this.#isStopped) return undefined;
    if (this.#requests.length >= this.#requestsMax) {
      this.#truncated = true;
      return undefined;
    }
    this.#requests.push(request);
    return request;
  }

  answered(request: PendingRequest, atUs: number): void {
    if (!this.#isStopped) request.serviceUs = Math.min(SERVICE_US_MAX, atUs - request.arrivalUs);
  }

  /** Ends it. What was not answered by now stays so. */
  stop(): RequestRecordingFile {
    this.#isStopped = true;
    // Batches of two connections may have been put down in another order than they were received in.
    const requests = this.#requests.toSorted((one, other) => one.arrivalUs - other.arrivalUs);
    return { disks: this.#disks, requests, endUs: this.nowUs(), truncated: this.#truncated };
  }
}

/** What an NBD export of a recorded disk holds. */
export class DiskRecording {
  readonly recording: RequestRecording;
  readonly #disk: number;
  #connections = 0;

  constructor(recording: RequestRecording, disk: number) {
    this.recording = recording;
    this.#disk = disk;
  }

  /** A number for a connection that has not spoken before. */
  newConnection(): number {
    const connection = Math.min(this.#connections, CONNECTION_MAX);
    this.#connections += 1;
    return connection;
  }

  add(request: {
    readonly arrivalUs: number;
    readonly connection: number;
    readonly command: number;
    readonly flags: number;
    readonly byteOffset: number;
    readonly byteLength: number;
  }): PendingRequest | undefined {
    const { command, flags, byteOffset, byteLength } = request;
    // What no guest's driver would send is refused further on, and says nothing about speed.
    if (command > COMMAND_MAX || !Number.isSafeInteger(byteOffset) || byteLength > LENGTH_MAX) return undefined;
    return this.recording.add({
      ...request,
      flags: flags & FLAGS_MASK,
      disk: this.#disk,
      serviceUs: undefined,
      failed: false,
    });
  }
}
