/** A bare NBD client for tests: sends what it is told, reads byte by byte what comes, waits with the name of the step. */
import net from 'node:net';
import { once } from 'node:events';
import { OPTION_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC } from './nbd-protocol.js';

export const optionBytes = (option: number, data: Buffer = Buffer.alloc(0)): Buffer => {
  const header = Buffer.alloc(16);
  OPTION_MAGIC.copy(header);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
};

export const goData = (name: string): Buffer => {
  const data = Buffer.alloc(4 + Buffer.byteLength(name) + 2);
  data.writeUInt32BE(Buffer.byteLength(name), 0);
  data.write(name, 4);
  return data;
};

export const requestBytes = (request: {
  readonly command: number;
  readonly flags?: number;
  readonly cookie?: number;
  readonly byteOffset?: number;
  readonly byteLength?: number;
  readonly payload?: Buffer;
}): Buffer => {
  const header = Buffer.alloc(28);
  header.writeUInt32BE(REQUEST_MAGIC, 0);
  header.writeUInt16BE(request.flags ?? 0, 4);
  header.writeUInt16BE(request.command, 6);
  header.writeBigUInt64BE(BigInt(request.cookie ?? 0), 8);
  header.writeBigUInt64BE(BigInt(request.byteOffset ?? 0), 16);
  header.writeUInt32BE(request.byteLength ?? request.payload?.length ?? 0, 24);
  return Buffer.concat([header, request.payload ?? Buffer.alloc(0)]);
};

export type Reply =
  | { readonly kind: 'simple'; readonly errno: number; readonly cookie: number }
  | {
      readonly kind: 'chunk';
      readonly type: number;
      readonly isDone: boolean;
      readonly cookie: number;
      readonly payload: Buffer;
    };

const STEP_MS = 30_000;

export class RawClient {
  readonly socket: net.Socket;
  #received = Buffer.alloc(0);
  #isEnded = false;
  #wake = (): void => {};

  private constructor(socket: net.Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#isEnded = true;
      this.#wake();
    });
  }

  static async connect(path: string): Promise<RawClient> {
    const socket = net.connect(path);
    await once(socket, 'connect');
    return new RawClient(socket);
  }

  /** Connects and goes through the handshake to the transmission phase. */
  static async open(
    path: string,
    options: { readonly structured?: boolean; readonly name?: string } = {},
  ): Promise<RawClient> {
    const client = await RawClient.connect(path);
    await client.read(18, 'greeting');
    client.send(Buffer.from([0, 0, 0, 3]));
    if (options.structured === true) {
      client.send(optionBytes(8));
      await client.readOptionReply('structured reply');
    }
    client.send(optionBytes(7, goData(options.name ?? '')));
    await client.readUntilAck('go');
    return client;
  }

  send(bytes: Buffer): void {
    this.socket.write(bytes);
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  async read(byteLength: number, step: string): Promise<Buffer> {
    await this.#until(() => this.#received.length >= byteLength || this.#isEnded, step);
    if (this.#received.length < byteLength) throw new Error(`${step}: the server has closed the connection`);
    const bytes = Buffer.from(this.#received.subarray(0, byteLength));
    this.#received = this.#received.subarray(byteLength);
    return bytes;
  }

  async readOptionReply(
    step: string,
  ): Promise<{ readonly option: number; readonly type: number; readonly data: Buffer }> {
    const header = await this.read(20, step);
    const data = await this.read(header.readUInt32BE(16), step);
    return { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data };
  }

  /** Option replies up to an ACK or an error. */
  async readUntilAck(
    step: string,
  ): Promise<{ readonly option: number; readonly type: number; readonly data: Buffer }[]> {
    const replies = [];
    for (;;) {
      const reply = await this.readOptionReply(step);
      replies.push(reply);
      if (reply.type === 1 || reply.type >= 0x8000_0000) return replies;
    }
  }

  /** One reply without data, or one chunk. */
  async readReply(step: string): Promise<Reply> {
    const magic = (await this.read(4, step)).readUInt32BE(0);
    if (magic === SIMPLE_REPLY_MAGIC) {
      const rest = await this.read(12, step);
      return { kind: 'simple', errno: rest.readUInt32BE(0), cookie: Number(rest.readBigUInt64BE(4)) };
    }
    if (magic !== STRUCTURED_REPLY_MAGIC) throw new Error(`${step}: bad magic ${magic.toString(16)}`);
    const rest = await this.read(16, step);
    const payload = await this.read(rest.readUInt32BE(12), step);
    const cookie = Number(rest.readBigUInt64BE(4));
    return { kind: 'chunk', type: rest.readUInt16BE(2), isDone: (rest.readUInt16BE(0) & 1) !== 0, cookie, payload };
  }

  async ended(step: string): Promise<void> {
    await this.#until(() => this.#isEnded, step);
  }

  destroy(): void {
    this.socket.destroy();
  }

  async #until(condition: () => boolean, step: string): Promise<void> {
    const deadlineMs = performance.now() + STEP_MS;
    while (!condition()) {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(
          () => reject(new Error(`${step}: nothing came in time`)),
          deadlineMs - performance.now(),
        );
        this.#wake = (): void => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
