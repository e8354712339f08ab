import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Screen } from './vnc-client.js';

type Rectangle = {
  readonly at: readonly [x: number, y: number, width: number, height: number];
  readonly pixels: Buffer;
};

/** A display of 2 x 2 pixels of 4 bytes, which sends what a test tells it to, one update a request. */
class FakeDisplay {
  readonly updates: Buffer[] = [];
  readonly heard: Buffer[] = [];
  #socket: Socket | undefined;
  #asked = 0;
  readonly #onHeard = new Set<() => void>();
  readonly #server = createServer((socket) => {
    this.#socket = socket;
    socket.write('RFB 003.008\n');
    let step = 0;
    socket.on('error', () => undefined);
    socket.on('data', (bytes) => {
      this.heard.push(bytes);
      step += 1;
      if (step === 1) socket.write(Buffer.from([1, 1]));
      if (step === 2) socket.write(Buffer.alloc(4));
      if (step === 3) socket.write(Buffer.concat([Buffer.from([0, 2, 0, 2, 32]), Buffer.alloc(15), Buffer.alloc(4)]));
      if (step > 3) this.#asked += 1;
      this.#send();
      for (const listener of this.#onHeard) listener();
    });
  });

  async listen(socketPath: string): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(socketPath, resolve));
  }

  shows(...rectangles: readonly Rectangle[]): void {
    const head = Buffer.from([0, 0, 0, rectangles.length]);
    const parts = rectangles.flatMap(({ at, pixels }) => {
      const rectangle = Buffer.alloc(12);
      at.forEach((value, index) => rectangle.writeUInt16BE(value, 2 * index));
      if (pixels.length === 0) rectangle.writeInt32BE(-223, 8);
      return [rectangle, pixels];
    });
    this.updates.push(Buffer.concat([head, ...parts]));
    this.#send();
  }

  /** Resolves when so many bytes have been heard that end with these. */
  async hears(end: Buffer): Promise<void> {
    while (!Buffer.concat(this.heard).includes(end))
      await new Promise<void>((resolve) => {
        const listener = (): void => {
          this.#onHeard.delete(listener);
          resolve();
        };
        this.#onHeard.add(listener);
      });
  }

  #send(): void {
    while (this.#asked > 0 && this.updates.length > 0) {
      this.#asked -= 1;
      this.#socket?.write(this.updates.shift() ?? Buffer.alloc(0));
    }
  }

  async close(): Promise<void> {
    this.#socket?.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

const QUIET_MS = 20_000;
let folder: string;
let display: FakeDisplay;
let screen: Screen;

beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'vnc-'));
  display = new FakeDisplay();
  await display.listen(path.join(folder, 'vnc.sock'));
  screen = await Screen.open(path.join(folder, 'vnc.sock'));
});
afterEach(async () => {
  screen.close();
  await display.close();
  await rm(folder, { recursive: true, force: true });
});

const pixels = (...values: readonly number[]): Buffer =>
  Buffer.from(values.flatMap((value) => [value, value, value, 0]));

/** The change is waited for before it comes. */
const after = async (act: () => void): Promise<string> => {
  const change = screen.change(QUIET_MS);
  act();
  expect(await change).toBe('changed');
  return screen.digest();
};

test('pictures of equal pixels have equal digests, however they came to be', async () => {
  const whole = await after(() => display.shows({ at: [0, 0, 2, 2], pixels: pixels(1, 2, 3, 4) }));
  const other = await after(() => display.shows({ at: [1, 0, 1, 2], pixels: pixels(9, 9) }));
  expect(other).not.toBe(whole);
  const again = await after(() =>
    display.shows({ at: [1, 0, 1, 1], pixels: pixels(2) }, { at: [1, 1, 1, 1], pixels: pixels(4) }),
  );
  expect(again).toBe(whole);
});

test('a screen of another size is another picture', async () => {
  const small = await after(() => display.shows({ at: [0, 0, 2, 2], pixels: pixels(0, 0, 0, 0) }));
  const wide = await after(() => display.shows({ at: [0, 0, 4, 1], pixels: Buffer.alloc(0) }));
  expect(wide).not.toBe(small);
  const drawn = await after(() => display.shows({ at: [3, 0, 1, 1], pixels: pixels(7) }));
  expect(drawn).not.toBe(wide);
});

test('what is typed goes down and up key by key, Enter as its own key', async () => {
  screen.type('a\n');
  await display.hears(
    Buffer.from([
      ...[4, 1, 0, 0, 0, 0, 0, 0x61, 4, 0, 0, 0, 0, 0, 0, 0x61],
      ...[4, 1, 0, 0, 0, 0, 0xff, 0x0d, 4, 0, 0, 0, 0, 0, 0xff, 0x0d],
    ]),
  );
});

test('a display that goes away fails who waits for a change', async () => {
  const change = screen.change(QUIET_MS);
  await display.close();
  await expect(change).rejects.toThrow();
});
