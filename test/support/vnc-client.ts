/**
 * A person at the machine's display: the handshake of RFB 3.8 on QEMU's unix socket, then one whole picture, and how long that took, which is how
 * long somebody would have looked at an empty window; or a `Screen`, which follows the picture and types.
 */
import { createHash } from 'node:crypto';
import { connect, type Socket } from 'node:net';

const SECURITY_NONE = 1;
const ENCODING_RAW = 0;
const ENCODING_DESKTOP_SIZE = -223;
/** X11's name of it. */
const KEY_ENTER = 0xff0d;

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

/** The handshake: resolves with the size of the screen. `onStep` hears what is waited for. */
const shakeHands = async (
  socket: Socket,
  reader: ByteReader,
  onStep: (step: string) => void,
): Promise<{ readonly width: number; readonly height: number; readonly pixelByteLength: number }> => {
  onStep('its greeting');
  const greeting = (await reader.take(12)).toString('latin1');
  if (!greeting.startsWith('RFB 003.')) throw new Error(`not a display: ${JSON.stringify(greeting)}`);
  socket.write('RFB 003.008\n');
  onStep('its kinds of security');
  const kinds = await reader.take((await reader.take(1)).readUInt8());
  if (!kinds.includes(SECURITY_NONE)) throw new Error('the display wants a password');
  socket.write(Buffer.from([SECURITY_NONE]));
  if ((await reader.take(4)).readUInt32BE() !== 0) throw new Error('the display refused us');
  socket.write(Buffer.from([1])); // shared
  onStep('its size');
  const init = await reader.take(24);
  await reader.take(init.readUInt32BE(20));
  socket.write(setEncodings([ENCODING_RAW, ENCODING_DESKTOP_SIZE]));
  return { width: init.readUInt16BE(0), height: init.readUInt16BE(2), pixelByteLength: init.readUInt8(4) / 8 };
};

/** Connects, shakes hands and asks for the whole screen once. `timeoutMs` ends a hang, with the step's name. */
export const takePicture = async (socketPath: string, timeoutMs = 120_000): Promise<Picture> => {
  const beganMs = performance.now();
  const socket = connect(socketPath);
  let step = 'connecting';
  const timer = setTimeout(() => socket.destroy(new Error(`the display: ${step}: ${timeoutMs} ms passed`)), timeoutMs);
  try {
    const reader = new ByteReader(socket);
    const { width, height, pixelByteLength } = await shakeHands(socket, reader, (next) => (step = next));
    let pixelBytes = 0;
    step = 'its picture';
    while (pixelBytes === 0) {
      socket.write(updateRequest({ width, height, isIncremental: false }));
      await takeUpdate(reader, pixelByteLength, { rectangle: ({ pixels }) => (pixelBytes += pixels.length) });
    }
    return { width, height, pixelBytes, tookMs: performance.now() - beganMs };
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
};

/** What `Screen` has of the display. */
type Frame = { width: number; height: number; pixels: Buffer };

/** The display as somebody has it before them: the picture as it changes, and a keyboard. */
export class Screen {
  readonly #socket: Socket;
  readonly #pixelByteLength: number;
  readonly #frame: Frame;
  readonly #listeners = new Set<() => void>();
  #failure: unknown;

  private constructor(socket: Socket, frame: Frame, pixelByteLength: number) {
    this.#socket = socket;
    this.#frame = frame;
    this.#pixelByteLength = pixelByteLength;
  }

  /** Connects; what the screen shows comes from then on by itself. */
  static async open(socketPath: string): Promise<Screen> {
    const socket = connect(socketPath);
    const reader = new ByteReader(socket);
    const { width, height, pixelByteLength } = await shakeHands(socket, reader, () => undefined);
    const pixels = Buffer.alloc(width * height * pixelByteLength);
    const screen = new Screen(socket, { width, height, pixels }, pixelByteLength);
    void screen.#follow(reader).catch((error: unknown) => {
      screen.#failure = error;
      screen.#tell();
    });
    return screen;
  }

  /** A digest of the picture as it is now: equal for equal pictures. */
  digest(): string {
    const { width, height, pixels } = this.#frame;
    return createHash('sha256').update(`${width}x${height} `).update(pixels).digest('hex');
  }

  /** Resolves when the picture has changed, or after `quietMs` in which it did not, with which it was. */
  async change(quietMs: number): Promise<'changed' | 'quiet'> {
    if (this.#failure !== undefined) throw this.#failure;
    return await new Promise((resolve, reject) => {
      const done = (what: 'changed' | 'quiet'): void => {
        clearTimeout(timer);
        this.#listeners.delete(listener);
        if (this.#failure === undefined) resolve(what);
        else reject(this.#failure as Error);
      };
      const listener = (): void => done('changed');
      const timer = setTimeout(() => done('quiet'), quietMs);
      this.#listeners.add(listener);
    });
  }

  /** Presses and lets go the keys of printable ASCII; a line feed is Enter. */
  type(text: string): void {
    for (const sign of text) {
      const symbol = sign === '\n' ? KEY_ENTER : sign.charCodeAt(0);
      for (const isDown of [1, 0]) {
        const message = Buffer.alloc(8);
        message.writeUInt8(4, 0);
        message.writeUInt8(isDown, 1);
        message.writeUInt32BE(symbol, 4);
        this.#socket.write(message);
      }
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  async #follow(reader: ByteReader): Promise<never> {
    for (let isIncremental = false; ; isIncremental = true) {
      const { width, height } = this.#frame;
      this.#socket.write(updateRequest({ width, height, isIncremental }));
      await takeUpdate(reader, this.#pixelByteLength, {
        resized: (newWidth, newHeight) => {
          Object.assign(this.#frame, {
            ...{ width: newWidth, height: newHeight },
            pixels: Buffer.alloc(newWidth * newHeight * this.#pixelByteLength),
          });
        },
        rectangle: (rectangle) => this.#draw(rectangle),
      });
      this.#tell();
    }
  }

  #draw({ x, y, width, height, pixels }: Rectangle): void {
    const rowBytes = width * this.#pixelByteLength;
    for (let row = 0; row < height; row += 1)
      pixels.copy(
        this.#frame.pixels,
        ((y + row) * this.#frame.width + x) * this.#pixelByteLength,
        row * rowBytes,
        (row + 1) * rowBytes,
      );
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

const setEncodings = (encodings: readonly number[]): Buffer => {
  const message = Buffer.alloc(4 + 4 * encodings.length);
  message.writeUInt8(2, 0);
  message.writeUInt16BE(encodings.length, 2);
  encodings.forEach((encoding, index) => message.writeInt32BE(encoding, 4 + 4 * index));
  return message;
};

const updateRequest = (options: {
  readonly width: number;
  readonly height: number;
  readonly isIncremental: boolean;
}): Buffer => {
  const message = Buffer.alloc(10);
  message.writeUInt8(3, 0);
  message.writeUInt8(options.isIncremental ? 1 : 0, 1);
  message.writeUInt16BE(options.width, 6);
  message.writeUInt16BE(options.height, 8);
  return message;
};

type Rectangle = {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly pixels: Buffer;
};

/** Reads messages up to the end of the next FramebufferUpdate, and says what it held. */
const takeUpdate = async (
  reader: ByteReader,
  pixelByteLength: number,
  on: {
    readonly rectangle: (rectangle: Rectangle) => void;
    readonly resized?: (width: number, height: number) => void;
  },
): Promise<void> => {
  for (;;) {
    const type = (await reader.take(1)).readUInt8();
    if (type === 2) continue; // a bell
    if (type === 3) {
      await reader.take((await reader.take(7)).readUInt32BE(3)); // cut text
      continue;
    }
    if (type !== 0) throw new Error(`the display sent a message of type ${type}`);
    const rectangles = (await reader.take(3)).readUInt16BE(1);
    for (let index = 0; index < rectangles; index += 1) {
      const header = await reader.take(12);
      const [x, y, width, height] = [0, 2, 4, 6].map((at) => header.readUInt16BE(at)) as [
        number,
        number,
        number,
        number,
      ];
      const encoding = header.readInt32BE(8);
      if (encoding === ENCODING_DESKTOP_SIZE) {
        on.resized?.(width, height);
        continue;
      }
      if (encoding !== ENCODING_RAW) throw new Error(`the display used encoding ${encoding}, which nobody asked for`);
      on.rectangle({ x, y, width, height, pixels: await reader.take(width * height * pixelByteLength) });
    }
    return;
  }
};
