/**
 * The player's NBD client: newstyle fixed handshake with structured replies and block status where the server has them, as QEMU
 * negotiates them; then requests out and completions in, with as little work as can be: what a read brings is counted and thrown
 * away. Payloads of writes are zeroes with their offset in the first eight bytes of each 512.
 */
import net from 'node:net';
import { COMMAND, COMMAND_FLAG } from '@collective/transceiver';

const GREETING_BYTES = 18;
const OPTION = { go: 7, structuredReply: 8, setMetaContext: 10 } as const;
const OPTION_ACK = 1;
const OPTION_INFO = 3;
const OPTION_META_CONTEXT = 4;
const INFO_EXPORT = 0;
const CAN = {
  flush: 1 << 2,
  fua: 1 << 3,
  trim: 1 << 5,
  zero: 1 << 6,
  df: 1 << 7,
  cache: 1 << 10,
  fastZero: 1 << 11,
} as const;
const REPLY_IS_ERROR = 0x8000_0000;
const SIMPLE_MAGIC = 0x67446698;
const CHUNK_MAGIC = 0x668e33ef;
const CHUNK_DONE = 1;
const CHUNK_IS_ERROR = 0x8000;
const CONNECT_MS = 60_000;
const SECTOR_BYTES = 512;

export type PlayedRequest = {
  readonly command: number;
  readonly flags: number;
  readonly byteOffset: number;
  readonly byteLength: number;
};

/** `number` as it was given to `send`. */
export type Completion = (number: number, failed: boolean) => void;

export class NbdPlayerClient {
  readonly #socket: net.Socket;
  readonly #lengths = new Map<number, number>();
  readonly #failed = new Set<number>();
  readonly #header = Buffer.alloc(20);
  #headerFilled = 0;
  #skipBytes = 0;
  #number = 0;
  #isDone = false;
  #structured = false;
  #blockStatus = false;
  /** The export's transmission flags. */
  #can = 0;
  #onCompletion: Completion = () => undefined;
  #onLost: (error: Error) => void = () => undefined;
  #isClosed = false;

  private constructor(socket: net.Socket) {
    this.#socket = socket;
  }

  /** Connects, opens the export and waits until requests can be sent. Fails naming the socket. */
  static async open(socketPath: string, exportName = ''): Promise<NbdPlayerClient> {
    const socket = net.connect(socketPath);
    const client = new NbdPlayerClient(socket);
    const timer = setTimeout(() => socket.destroy(new Error('no answer in time')), CONNECT_MS);
    try {
      await client.#handshake(exportName);
    } catch (error) {
      socket.destroy();
      throw new Error(`NBD handshake at ${socketPath}`, { cause: error });
    } finally {
      clearTimeout(timer);
    }
    return client;
  }

  /** The request as this server may be asked it, as a client that knows the protocol would; undefined: not at all. */
  adapt(request: PlayedRequest): PlayedRequest | undefined {
    const can = (ability: keyof typeof CAN): boolean => (this.#can & CAN[ability]) !== 0;
    const { fua, df, fastZero } = COMMAND_FLAG;
    const refused = (can('fua') ? 0 : fua) | (can('df') ? 0 : df) | (can('fastZero') ? 0 : fastZero);
    const adapted = { ...request, flags: request.flags & ~refused };
    switch (request.command) {
      case COMMAND.flush:
        return can('flush') ? adapted : undefined;
      case COMMAND.trim:
        return can('trim') ? adapted : undefined;
      case COMMAND.cache:
        return can('cache') ? adapted : undefined;
      case COMMAND.blockStatus:
        return this.#blockStatus ? adapted : undefined;
      case COMMAND.writeZeroes:
        return can('zero') ? adapted : { ...adapted, command: COMMAND.write, flags: adapted.flags & fua };
      default:
        return adapted;
    }
  }

  /** Who is told of completions, and of a connection that is lost. */
  listen(onCompletion: Completion, onLost: (error: Error) => void): void {
    this.#onCompletion = onCompletion;
    this.#onLost = onLost;
  }

  /** Sends a request under a number of the caller's that nothing in flight has. `payload`: of a write, instead of offsets. */
  send(number: number, request: PlayedRequest, payload?: Buffer): void {
    const { command, flags, byteOffset, byteLength } = request;
    const payloadBytes = command === COMMAND.write && payload === undefined ? byteLength : 0;
    const bytes = Buffer.alloc(28 + payloadBytes);
    bytes.writeUInt32BE(0x25609513, 0);
    bytes.writeUInt16BE(flags, 4);
    bytes.writeUInt16BE(command, 6);
    bytes.writeUInt32BE(number, 12);
    bytes.writeBigUInt64BE(BigInt(byteOffset), 16);
    bytes.writeUInt32BE(byteLength, 24);
    for (let at = 0; at + 8 <= payloadBytes; at += SECTOR_BYTES)
      bytes.writeBigUInt64LE(BigInt(byteOffset + at), 28 + at);
    this.#lengths.set(number, command === COMMAND.read ? byteLength : 0);
    this.#socket.write(bytes);
    if (payload !== undefined) this.#socket.write(payload);
  }

  close(): void {
    this.#isClosed = true;
    this.#socket.destroy();
  }

  async #handshake(exportName: string): Promise<void> {
    const stream = new HandshakeStream(this.#socket);
    const greeting = await stream.take(GREETING_BYTES);
    if (greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw new Error('it is no NBD server');
    this.#socket.write(Buffer.from([0, 0, 0, 3])); // fixed newstyle, no zeroes
    const name = Buffer.from(exportName);
    const named = (rest: Buffer): Buffer => Buffer.concat([uint32(name.length), name, rest]);
    this.#structured = (await stream.option(OPTION.structuredReply, Buffer.alloc(0))).isAcknowledged;
    if (this.#structured) {
      const query = Buffer.from('base:allocation');
      const context = await stream.option(
        OPTION.setMetaContext,
        named(Buffer.concat([uint32(1), uint32(query.length), query])),
      );
      this.#blockStatus = context.kinds.includes(OPTION_META_CONTEXT);
    }
    const opened = await stream.option(OPTION.go, named(Buffer.alloc(2)));
    this.#can = opened.transmissionFlags;
    if (!opened.isAcknowledged) throw new Error(`it refuses the export '${exportName}'`);
    const rest = stream.release();
    this.#socket.on('data', (chunk: Buffer) => this.#received(chunk));
    this.#socket.on('error', () => undefined);
    this.#socket.on('close', () => {
      if (!this.#isClosed) this.#onLost(new Error('the NBD server has closed the connection'));
    });
    if (rest.length > 0) this.#received(rest);
    this.#socket.resume();
  }

  #received(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#skipBytes > 0) {
        const skipped = Math.min(this.#skipBytes, chunk.length - at);
        this.#skipBytes -= skipped;
        at += skipped;
        if (this.#skipBytes > 0) return;
        this.#partEnded();
        continue;
      }
      const wanted = this.#headerBytes() - this.#headerFilled;
      const taken = Math.min(wanted, chunk.length - at);
      chunk.copy(this.#header, this.#headerFilled, at, at + taken);
      this.#headerFilled += taken;
      at += taken;
      // The magic says how long the header is; so it may have to go on.
      if (this.#headerFilled < 4 || this.#headerFilled < this.#headerBytes()) continue;
      this.#headerFilled = 0;
      this.#takeHeader();
    }
  }

  #headerBytes(): number {
    if (this.#headerFilled < 4) return 4;
    const magic = this.#header.readUInt32BE(0);
    if (magic === SIMPLE_MAGIC) return 16;
    if (magic === CHUNK_MAGIC) return 20;
    throw new Error(`the NBD server sent ${magic.toString(16)} for a magic`);
  }

  #takeHeader(): void {
    const header = this.#header;
    if (header.readUInt32BE(0) === SIMPLE_MAGIC) {
      this.#number = header.readUInt32BE(12);
      const failed = header.readUInt32BE(4) !== 0;
      if (failed) this.#failed.add(this.#number);
      this.#isDone = true;
      this.#skipBytes = failed ? 0 : (this.#lengths.get(this.#number) ?? 0);
    } else {
      this.#number = header.readUInt32BE(12);
      this.#isDone = (header.readUInt16BE(4) & CHUNK_DONE) !== 0;
      if ((header.readUInt16BE(6) & CHUNK_IS_ERROR) !== 0) this.#failed.add(this.#number);
      this.#skipBytes = header.readUInt32BE(16);
    }
    if (this.#skipBytes === 0) this.#partEnded();
  }

  #partEnded(): void {
    if (!this.#isDone) return;
    this.#isDone = false;
    this.#lengths.delete(this.#number);
    this.#onCompletion(this.#number, this.#failed.delete(this.#number));
  }
}

/** Option replies in exact amounts. */
class HandshakeStream {
  readonly #socket: net.Socket;
  readonly #onData = (chunk: Buffer): void => {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    this.#wake();
  };
  readonly #onClose = (error?: unknown): void => {
    this.#ended ??= error instanceof Error ? error : new Error('it has closed the connection');
    this.#wake();
  };
  #bytes = Buffer.alloc(0);
  #ended: Error | undefined;
  #wake: () => void = () => undefined;

  constructor(socket: net.Socket) {
    this.#socket = socket;
    socket.on('data', this.#onData);
    socket.on('error', this.#onClose);
    socket.on('close', this.#onClose);
  }

  async take(byteLength: number): Promise<Buffer> {
    while (this.#bytes.length < byteLength) {
      if (this.#ended !== undefined) throw this.#ended;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const taken = this.#bytes.subarray(0, byteLength);
    this.#bytes = this.#bytes.subarray(byteLength);
    return taken;
  }

  async option(
    option: number,
    data: Buffer,
  ): Promise<{
    readonly isAcknowledged: boolean;
    readonly kinds: readonly number[];
    readonly transmissionFlags: number;
  }> {
    this.#socket.write(Buffer.concat([Buffer.from('IHAVEOPT'), uint32(option), uint32(data.length), data]));
    const kinds: number[] = [];
    let transmissionFlags = 0;
    for (;;) {
      const header = await this.take(20);
      const kind = header.readUInt32BE(12);
      const payload = await this.take(header.readUInt32BE(16));
      kinds.push(kind);
      if (kind === OPTION_INFO && payload.length === 12 && payload.readUInt16BE(0) === INFO_EXPORT)
        transmissionFlags = payload.readUInt16BE(10);
      if (kind === OPTION_ACK || kind >= REPLY_IS_ERROR)
        return { isAcknowledged: kind === OPTION_ACK, kinds, transmissionFlags };
    }
  }

  /** Lets go of the socket, paused; gives what has come beyond the handshake. */
  release(): Buffer {
    this.#socket.pause();
    this.#socket.off('data', this.#onData);
    this.#socket.off('error', this.#onClose);
    this.#socket.off('close', this.#onClose);
    return this.#bytes;
  }
}

const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};
