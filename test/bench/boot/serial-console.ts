/** The first serial port of a guest, over QEMU's socket: what it prints is kept, and words can be typed. */
import net from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { Child } from '../../support/child.js';

const TEXT_CHARS_MAX = 1 << 20;

export class SerialConsole {
  readonly #socket: net.Socket;
  #text = '';
  #isOver = false;
  readonly #listeners = new Set<() => void>();

  private constructor(socket: net.Socket) {
    this.#socket = socket;
    socket.setEncoding('utf8');
    const tell = (): void => {
      for (const listener of this.#listeners) listener();
    };
    socket.on('data', (more: string) => {
      this.#text = (this.#text + more).slice(-TEXT_CHARS_MAX);
      tell();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#isOver = true;
      tell();
    });
  }

  /** Connects as soon as QEMU listens; fails when QEMU ends before that. */
  static async open(socketPath: string, qemu: Child): Promise<SerialConsole> {
    while (qemu.running) {
      const socket = net.connect(socketPath);
      const isOpen = await new Promise<boolean>((resolve) => {
        socket.once('connect', () => resolve(true));
        socket.once('error', () => resolve(false));
      });
      if (isOpen) return new SerialConsole(socket);
      await delay(5);
    }
    throw new Error(`QEMU ended: ${qemu.stderr.slice(-500)}`);
  }

  type(text: string): void {
    this.#socket.write(`${text}\n`);
  }

  /** Resolves with the match as soon as what was printed has it; what came up to its end is not looked at again. */
  async waitFor(pattern: RegExp, timeoutMs: number): Promise<RegExpExecArray> {
    let timer: NodeJS.Timeout | undefined;
    let look = (): void => undefined;
    try {
      return await new Promise<RegExpExecArray>((resolve, reject) => {
        const fail = (why: string): void =>
          reject(new Error(`${why} before ${String(pattern)} on the serial console\n${this.#text.slice(-2000)}`));
        look = () => {
          const match = pattern.exec(this.#text);
          if (match !== null) {
            this.#text = this.#text.slice(match.index + match[0].length);
            resolve(match);
          } else if (this.#isOver) fail('it was closed');
        };
        this.#listeners.add(look);
        timer = setTimeout(() => fail(`${timeoutMs} ms passed`), timeoutMs);
        look();
      });
    } finally {
      clearTimeout(timer);
      this.#listeners.delete(look);
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}
