/**
 * Reads a disk over NBD: a client for `qemu-nbd --read-only`, which turns every format into plain bytes.
 *
 * Why qemu-nbd and not `qemu-img convert`: convert needs a second copy of the image on disk and cannot write to a pipe;
 * qemu-nbd needs neither, and its process keeps QEMU's format drivers out of ours. Raw images do not come here: they are
 * read directly. Fixed newstyle handshake with NBD_OPT_GO, simple replies, several reads in flight.
 * (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md)
 */
import { connect, type Socket } from 'node:net';
import { CollectiveError, type ErrorCode } from '@collective/shared';

const NBD_MAGIC = 0x4e42444d41474943n;
const OPTION_MAGIC = 0x49484156454f5054n;
const OPTION_REPLY_MAGIC = 0x3e889045565a9n;
const REQUEST_MAGIC = 0x25609513;
const REPLY_MAGIC = 0x67446698;
const OPTION_GO = 7;
const REPLY_ACK = 1;
const REPLY_INFO = 3;
const INFO_EXPORT = 0;
const COMMAND_READ = 0;
const COMMAND_DISCONNECT = 2;

type Pending = { readonly target: Buffer; readonly resolve: () => void; readonly reject: (error: Error) => void };

export class NbdReader {
  readonly diskBytes: number;
  readonly #stream: ByteStream;
  readonly #pending = new Map<bigint, Pending>();
  #nextHandle = 1n;
  readonly #unreadable: ErrorCode;
  #failure: Error | undefined;

  private constructor(stream: ByteStream, diskBytes: number, unreadable: ErrorCode) {
    this.#stream = stream;
    this.diskBytes = diskBytes;
    this.#unreadable = unreadable;
    void this.#receive();
  }

  /** Connects and opens the default export. `unreadable`: what a read that the server refuses is told as. Errors: `local-io`. */
  static async open(socketPath: string, unreadable: ErrorCode = 'local-io'): Promise<NbdReader> {
    const stream = await ByteStream.connect(socketPath);
    try {
      const greeting = await stream.take(18);
      if (greeting.readBigUInt64BE(0) !== NBD_MAGIC || greeting.readBigUInt64BE(8) !== OPTION_MAGIC)
        throw failed('it is no NBD server');
      stream.write(uint32(3)); // fixed newstyle, no zeroes
      const option = Buffer.alloc(22);
      option.writeBigUInt64BE(OPTION_MAGIC, 0);
      option.writeUInt32BE(OPTION_GO, 8);
      option.writeUInt32BE(6, 12); // name length 4 (an empty name), count of information requests 2 (none)
      stream.write(option);
      return new NbdReader(stream, await sizeOfExport(stream), unreadable);
    } catch (error) {
      stream.destroy();
      throw error;
    }
  }

  /** Fills `target` with the bytes at `byteOffset`. Calls may overlap; up to 16 are useful. Errors: `local-io`, and `unreadable`. */
  async read(target: Buffer, byteOffset: number): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const handle = this.#nextHandle++;
    const request = Buffer.alloc(28);
    request.writeUInt32BE(REQUEST_MAGIC, 0);
    request.writeUInt16BE(COMMAND_READ, 6);
    request.writeBigUInt64BE(handle, 8);
    request.writeBigUInt64BE(BigInt(byteOffset), 16);
    request.writeUInt32BE(target.length, 24);
    await new Promise<void>((resolve, reject) => {
      this.#pending.set(handle, { target, resolve, reject });
      this.#stream.write(request);
    });
  }

  close(): void {
    const request = Buffer.alloc(28);
    request.writeUInt32BE(REQUEST_MAGIC, 0);
    request.writeUInt16BE(COMMAND_DISCONNECT, 6);
    if (this.#failure === undefined) this.#stream.write(request);
    this.#fail(failed('it was closed'));
    this.#stream.destroy();
  }

  async #receive(): Promise<void> {
    try {
      for (;;) {
        const header = await this.#stream.take(16);
        if (header.readUInt32BE(0) !== REPLY_MAGIC) throw failed('its reply is malformed');
        const handle = header.readBigUInt64BE(8);
        const pending = this.#pending.get(handle);
        if (pending === undefined) throw failed('it answers what was not asked');
        const errno = header.readUInt32BE(4);
        if (errno === 0) {
          // Pending until it is whole: a connection that ends in the middle ends this one, too.
          await this.#stream.fill(pending.target);
          pending.resolve();
        } else {
          pending.reject(
            new CollectiveError(this.#unreadable, `The disk cannot be read there (error ${String(errno)}).`),
          );
        }
        this.#pending.delete(handle);
      }
    } catch (error) {
      this.#fail(error instanceof Error ? error : failed(String(error)));
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const pending of this.#pending.values()) pending.reject(this.#failure);
    this.#pending.clear();
  }
}

async function sizeOfExport(stream: ByteStream): Promise<number> {
  let diskBytes: number | undefined;
  for (;;) {
    const header = await stream.take(20);
    if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) throw failed('its handshake is malformed');
    const kind = header.readUInt32BE(12);
    const bytes = header.readUInt32BE(16);
    if (bytes > 65_536) throw failed('its handshake is malformed');
    const payload = await stream.take(bytes);
    if (kind === REPLY_ACK) break;
    if (kind !== REPLY_INFO) throw failed(`it refuses the export (${String(kind)})`);
    if (bytes >= 10 && payload.readUInt16BE(0) === INFO_EXPORT) diskBytes = Number(payload.readBigUInt64BE(2));
  }
  if (diskBytes === undefined || !Number.isSafeInteger(diskBytes))
    throw failed('it does not say how large the disk is');
  return diskBytes;
}

/** Bytes of a socket in the order they come, taken in exact amounts. One taker at a time. */
class ByteStream {
  readonly #socket: Socket;
  readonly #chunks: Buffer[] = [];
  #available = 0;
  #ended: Error | undefined;
  #wake: (() => void) | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#available += chunk.length;
      if (this.#available > 8 * 1024 * 1024) socket.pause();
      this.#wake?.();
    });
    const end = (error?: Error): void => {
      this.#ended ??= failed(error?.message ?? 'it closed the connection');
      this.#wake?.();
    };
    socket.on('error', end);
    socket.on('close', () => end());
  }

  static async connect(path: string): Promise<ByteStream> {
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      socket.once('error', (error) => reject(failed(error.message)));
      socket.once('connect', () => resolve(new ByteStream(socket)));
    });
  }

  write(bytes: Buffer): void {
    this.#socket.write(bytes);
  }

  async take(bytes: number): Promise<Buffer> {
    const target = Buffer.allocUnsafe(bytes);
    await this.fill(target);
    return target;
  }

  async fill(target: Buffer): Promise<void> {
    let filled = 0;
    while (filled < target.length) {
      const chunk = this.#chunks[0];
      if (chunk === undefined) {
        if (this.#ended !== undefined) throw this.#ended;
        this.#socket.resume();
        await new Promise<void>((resolve) => (this.#wake = resolve));
        this.#wake = undefined;
        continue;
      }
      const copied = chunk.copy(target, filled);
      filled += copied;
      this.#available -= copied;
      if (copied === chunk.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(copied);
    }
  }

  destroy(): void {
    this.#socket.destroy();
  }
}

const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};

const failed = (what: string): CollectiveError =>
  new CollectiveError('local-io', `Reading the image through qemu-nbd failed: ${what}.`);
