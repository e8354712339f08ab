/**
 * A person who opens the machine's display: the handshake of RFB 3.8 on QEMU's unix socket, then one whole picture. What it gives
 * back is how long that took, which is how long somebody would have looked at an empty window.
 */
import { connect, type Socket } from 'node:net';

const SECURITY_NONE = 1;
const ENCODING_RAW = 0;
const ENCODING_DESKTOP_SIZE = -223;

export type Picture = {
  readonly width: number;
  readonly height: number;
  /** How much of it came: bytes of raw pixels. */
  readonly pixelBytes: number;
  /** From the connection's first packet to the picture's last byte. */
  readonly tookMs: number;
};

/** Reads exactly so many bytes, again and again; fails when the socket ends or has failed. */
class ByteReader {
  readonly #incoming: AsyncIterator<Buffer>;
  #held: Buffer[] = [];
  #heldBytes = 0;

  constructor(socket: Socket) {
    this.#incoming = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  async take(byteLength: number): Promise<Buffer> {
    // Joined once at the end: a picture comes in hundreds of parts.
    while (this.#heldBytes < byteLength) {
      const { value, done } = await this.#incoming.next();
      if (done === true) throw new Error('the display closed the connection');
      this.#held.push(value);
      this.#heldBytes += value.length;
    }
    const all = this.#held.length === 1 && this.#held[0] !== undefined ? this.#held[0] : Buffer.concat(this.#held);
    this.#held = [all.subarray(byteLength)];
    this.#heldBytes = all.length - byteLength;
    return all.subarray(0, byteLength);
  }
}

/** Connects, shakes hands and asks for the whole screen once. `timeoutMs` ends a hang, with the step's name. */
export const takePicture = async (socketPath: string, timeoutMs = 120_000): Promise<Picture> => {
  const beganMs = performance.now();
  const socket = connect(socketPath);
  let step = 'connecting';
  const timer = setTimeout(() => socket.destroy(new Error(`the display: ${step}: ${timeoutMs} ms passed`)), timeoutMs);
  try {
    const reader = new ByteReader(socket);
    step = 'its greeting';
    const greeting = (await reader.take(12)).toString('latin1');
    if (!greeting.startsWith('RFB 003.')) throw new Error(`not a display: ${JSON.stringify(greeting)}`);
    socket.write('RFB 003.008\n');
    step = 'its kinds of security';
    const kinds = await reader.take((await reader.take(1)).readUInt8());
    if (!kinds.includes(SECURITY_NONE)) throw new Error('the display wants a password');
    socket.write(Buffer.from([SECURITY_NONE]));
    if ((await reader.take(4)).readUInt32BE() !== 0) throw new Error('the display refused us');
    socket.write(Buffer.from([1])); // shared
    step = 'its size';
    const init = await reader.take(24);
    await reader.take(init.readUInt32BE(20));
    const width = init.readUInt16BE(0);
    const height = init.readUInt16BE(2);
    const pixelByteLength = init.readUInt8(4) / 8;
    socket.write(setEncodings([ENCODING_RAW, ENCODING_DESKTOP_SIZE]));
    let pixelBytes = 0;
    step = 'its picture';
    while (pixelBytes === 0) {
      socket.write(updateRequest(width, height));
      pixelBytes = await takeUpdate(reader, pixelByteLength);
    }
    return { width, height, pixelBytes, tookMs: performance.now() - beganMs };
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
};

const setEncodings = (encodings: readonly number[]): Buffer => {
  const message = Buffer.alloc(4 + 4 * encodings.length);
  message.writeUInt8(2, 0);
  message.writeUInt16BE(encodings.length, 2);
  encodings.forEach((encoding, index) => message.writeInt32BE(encoding, 4 + 4 * index));
  return message;
};

const updateRequest = (width: number, height: number): Buffer => {
  const message = Buffer.alloc(10);
  message.writeUInt8(3, 0);
  message.writeUInt16BE(width, 6);
  message.writeUInt16BE(height, 8);
  return message;
};

/** Reads messages up to the end of the next FramebufferUpdate; resolves with the bytes of pixels that it held. */
const takeUpdate = async (reader: ByteReader, pixelByteLength: number): Promise<number> => {
  for (;;) {
    const type = (await reader.take(1)).readUInt8();
    if (type === 2) continue; // a bell
    if (type === 3) {
      await reader.take((await reader.take(7)).readUInt32BE(3)); // cut text
      continue;
    }
    if (type !== 0) throw new Error(`the display sent a message of type ${type}`);
    const rectangles = (await reader.take(3)).readUInt16BE(1);
    let pixelBytes = 0;
    for (let index = 0; index < rectangles; index += 1) {
      const header = await reader.take(12);
      const encoding = header.readInt32BE(8);
      if (encoding === ENCODING_DESKTOP_SIZE) continue;
      if (encoding !== ENCODING_RAW) throw new Error(`the display used encoding ${encoding}, which nobody asked for`);
      const byteLength = header.readUInt16BE(4) * header.readUInt16BE(6) * pixelByteLength;
      await reader.take(byteLength);
      pixelBytes += byteLength;
    }
    return pixelBytes;
  }
};
