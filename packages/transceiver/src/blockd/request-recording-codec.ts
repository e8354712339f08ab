/**
 * A recording of what a machine asked of its disks, and when: docs/formats/request-recording.md, version 1. It holds offsets
 * and lengths, never a byte of the guest's data, no name but those of the disks, and no time of day.
 *
 *   magic 4 | flags 4 | endUs 8 | diskCount 4 | requestCount 4 | disk* | request*
 *   disk      nameBytes 1 | name | diskBytes 8
 *   request   arrivalUs 8 | serviceUs 4 | byteOffset 8 | byteLength 4 | disk 1 | connection 1 | command 1 | flags 1
 */
import { CollectiveError } from '@collective/shared';

/** `CRR`, 1 */
const MAGIC = Buffer.from([0x43, 0x52, 0x52, 0x01]);
const HEADER_BYTES = 24;
const REQUEST_BYTES = 28;
const FLAG_TRUNCATED = 1;
const NOT_ANSWERED = 0xffff_ffff;
const COMMAND_MAX = 7;
const REQUEST_FLAG_FAILED = 0x80;
const DISK_BYTES_MAX = 2 ** 44;
const DISK_NAME = /^[A-Za-z0-9][A-Za-z0-9@._-]{0,127}$/;

/** More are not recorded: 28 MiB. */
export const RECORDED_REQUESTS_MAX = 2 ** 20;
export const RECORDED_DISKS_MAX = 64;

export type RecordedDisk = { readonly name: string; readonly diskBytes: number };

export type RecordedRequest = {
  /** Since the recording was started, microseconds: when the request was received. */
  readonly arrivalUs: number;
  /** From there to the moment its reply was sent; undefined when the recording ended before. */
  readonly serviceUs: number | undefined;
  /** Index into `disks`. */
  readonly disk: number;
  /** Which connection to that disk, counted from 0; 255 for all later ones. */
  readonly connection: number;
  /** The NBD command and its flags. */
  readonly command: number;
  readonly flags: number;
  readonly byteOffset: number;
  readonly byteLength: number;
  /** The reply was an error. */
  readonly failed: boolean;
};

export type RequestRecordingFile = {
  readonly disks: readonly RecordedDisk[];
  /** In the order of arrival. */
  readonly requests: readonly RecordedRequest[];
  /** When the recording was stopped. */
  readonly endUs: number;
  /** There were more requests than a recording holds. */
  readonly truncated: boolean;
};

export const encodeRequestRecording = (recording: RequestRecordingFile): Buffer => {
  const { disks, requests, endUs, truncated } = recording;
  const names = disks.map(({ name }) => Buffer.from(name, 'latin1'));
  const disksBytes = names.reduce((sum, name) => sum + 1 + name.length + 8, 0);
  const bytes = Buffer.alloc(HEADER_BYTES + disksBytes + requests.length * REQUEST_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(truncated ? FLAG_TRUNCATED : 0, 4);
  bytes.writeBigUInt64LE(BigInt(endUs), 8);
  bytes.writeUInt32LE(disks.length, 16);
  bytes.writeUInt32LE(requests.length, 20);
  let at = HEADER_BYTES;
  disks.forEach(({ diskBytes }, index) => {
    const name = names[index] ?? Buffer.alloc(0);
    at = bytes.writeUInt8(name.length, at);
    at += name.copy(bytes, at);
    at = bytes.writeBigUInt64LE(BigInt(diskBytes), at);
  });
  for (const request of requests) {
    at = bytes.writeBigUInt64LE(BigInt(request.arrivalUs), at);
    at = bytes.writeUInt32LE(request.serviceUs ?? NOT_ANSWERED, at);
    at = bytes.writeBigUInt64LE(BigInt(request.byteOffset), at);
    at = bytes.writeUInt32LE(request.byteLength, at);
    at = bytes.writeUInt8(request.disk, at);
    at = bytes.writeUInt8(request.connection, at);
    at = bytes.writeUInt8(request.command, at);
    at = bytes.writeUInt8(request.flags | (request.failed ? REQUEST_FLAG_FAILED : 0), at);
  }
  return bytes;
};

/** Errors: `malformed`, `unknown-format`, `too-large`. */
export const decodeRequestRecording = (bytes: Buffer): RequestRecordingFile => {
  const reader = new Reader(bytes);
  const magic = reader.take(4);
  if (!magic.subarray(0, 3).equals(MAGIC.subarray(0, 3))) throw malformed('it is no request recording');
  if (!magic.equals(MAGIC)) throw new CollectiveError('unknown-format', `request recording ${magic[3] ?? 0}`);
  const flags = reader.uint32();
  if (flags > FLAG_TRUNCATED) throw malformed('reserved flags are set');
  const endUs = reader.uint64();
  const diskCount = reader.uint32();
  const requestCount = reader.uint32();
  if (diskCount > RECORDED_DISKS_MAX || requestCount > RECORDED_REQUESTS_MAX)
    throw new CollectiveError('too-large', `a recording of ${diskCount} disks and ${requestCount} requests`);
  const disks: RecordedDisk[] = [];
  for (let index = 0; index < diskCount; index += 1) {
    const name = reader.take(reader.uint8()).toString('latin1');
    const diskBytes = reader.uint64();
    if (!DISK_NAME.test(name) || disks.some((disk) => disk.name === name)) throw malformed('a disk name is not valid');
    if (diskBytes > DISK_BYTES_MAX) throw malformed(`disk ${name} is too large`);
    disks.push({ name, diskBytes });
  }
  const requests: RecordedRequest[] = [];
  let beforeUs = 0;
  for (let index = 0; index < requestCount; index += 1) {
    const request = readRequest(reader, disks);
    if (request.arrivalUs < beforeUs || request.arrivalUs + (request.serviceUs ?? 0) > endUs)
      throw malformed(`request ${index} is out of its time`);
    beforeUs = request.arrivalUs;
    requests.push(request);
  }
  reader.end();
  return { disks, requests, endUs, truncated: flags === FLAG_TRUNCATED };
};

const readRequest = (reader: Reader, disks: readonly RecordedDisk[]): RecordedRequest => {
  const arrivalUs = reader.uint64();
  const serviceUs = reader.uint32();
  const byteOffset = reader.uint64();
  const byteLength = reader.uint32();
  const disk = reader.uint8();
  const connection = reader.uint8();
  const command = reader.uint8();
  const flags = reader.uint8();
  if (disks[disk] === undefined || command > COMMAND_MAX) throw malformed('a request has no such disk or command');
  return {
    arrivalUs,
    serviceUs: serviceUs === NOT_ANSWERED ? undefined : serviceUs,
    disk,
    connection,
    command,
    flags: flags & ~REQUEST_FLAG_FAILED,
    byteOffset,
    byteLength,
    failed: (flags & REQUEST_FLAG_FAILED) !== 0,
  };
};

/** Fields one after the other; every one is checked to be there. */
class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  take(byteLength: number): Buffer {
    const at = this.#pass(byteLength);
    return this.#bytes.subarray(at, at + byteLength);
  }

  uint8(): number {
    return this.#bytes.readUInt8(this.#pass(1));
  }

  uint32(): number {
    return this.#bytes.readUInt32LE(this.#pass(4));
  }

  uint64(): number {
    const at = this.#pass(8);
    const value = this.#bytes.readUInt32LE(at + 4) * 2 ** 32 + this.#bytes.readUInt32LE(at);
    if (!Number.isSafeInteger(value)) throw malformed('a number is too large');
    return value;
  }

  /** Where the next `byteLength` bytes begin; they are there. */
  #pass(byteLength: number): number {
    const at = this.#at;
    if (at + byteLength > this.#bytes.length) throw malformed('it ends early');
    this.#at = at + byteLength;
    return at;
  }

  end(): void {
    if (this.#at !== this.#bytes.length) throw malformed('there are bytes behind its end');
  }
}

const malformed = (why: string): CollectiveError => new CollectiveError('malformed', `request recording: ${why}`);
