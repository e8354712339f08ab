/**
 * One NBD connection's side of a recording: remembers by its cookie which request is unanswered, and notes the reply when it is sent.
 * While nobody records, the hot path looks at two fields of it (`unanswered`, `unsent`) and goes on.
 */
import type { DiskRecording, PendingRequest, RequestRecording } from './request-recording.js';

const HIGH = 0x1_0000_0000n;
const cookieOf = (high: number, low: number): bigint => BigInt(high) * HIGH + BigInt(low);

export class RequestTap {
  /** Recorded requests whose reply has not been put together. */
  unanswered = 0;
  /** Replies to recorded requests that have been put together and not been sent. */
  unsent = 0;
  readonly #pending = new Map<bigint, PendingRequest>();
  readonly #replies: PendingRequest[] = [];
  #disk: DiskRecording | undefined;
  #recording: RequestRecording | undefined;
  #connection = 0;
  #arrivalUs = 0;

  /** A batch of requests has been received. */
  batchArrived(disk: DiskRecording): void {
    if (disk !== this.#disk) {
      this.#disk = disk;
      this.#recording = disk.recording;
      this.#connection = disk.newConnection();
      this.#pending.clear();
      this.#replies.length = 0;
      this.unanswered = 0;
      this.unsent = 0;
    }
    this.#arrivalUs = disk.recording.nowUs();
  }

  requested(
    disk: DiskRecording,
    command: number,
    flags: number,
    cookieHigh: number,
    cookieLow: number,
    byteOffset: number,
    byteLength: number,
  ): void {
    if (disk !== this.#disk) this.batchArrived(disk); // the recording began in the middle of a batch
    const request = disk.add({
      arrivalUs: this.#arrivalUs,
      connection: this.#connection,
      command,
      flags,
      byteOffset,
      byteLength,
    });
    if (request === undefined) return;
    this.#pending.set(cookieOf(cookieHigh, cookieLow), request);
    this.unanswered = this.#pending.size;
  }

  /** The last part of a reply has been put together. */
  answered(cookieHigh: number, cookieLow: number, failed: boolean): void {
    const cookie = cookieOf(cookieHigh, cookieLow);
    const request = this.#pending.get(cookie);
    if (request === undefined) return;
    this.#pending.delete(cookie);
    this.unanswered = this.#pending.size;
    request.failed = failed;
    this.#replies.push(request);
    this.unsent = this.#replies.length;
  }

  /** What had been put together has been sent. */
  sent(): void {
    const recording = this.#recording;
    if (recording !== undefined) {
      const nowUs = recording.nowUs();
      for (const request of this.#replies) recording.answered(request, nowUs);
    }
    this.#replies.length = 0;
    this.unsent = 0;
  }
}
