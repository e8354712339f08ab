/** A TCP proxy on loopback that keeps every byte that it carries, each way and each connection for itself. */
import { connect, createServer, type AddressInfo, type Server } from 'node:net';

export class RecordingProxy implements AsyncDisposable {
  readonly port: number;
  readonly #server: Server;
  readonly #streams: Buffer[][];

  private constructor(server: Server, streams: Buffer[][]) {
    this.#server = server;
    this.#streams = streams;
    this.port = (server.address() as AddressInfo).port;
  }

  static async before(realPort: number): Promise<RecordingProxy> {
    const streams: Buffer[][] = [];
    const server = createServer((client) => {
      const real = connect(realPort, '127.0.0.1');
      for (const [from, to] of [
        [client, real],
        [real, client],
      ] as const) {
        const stream: Buffer[] = [];
        streams.push(stream);
        from.on('data', (bytes: Buffer) => {
          stream.push(Buffer.from(bytes));
          to.write(bytes);
        });
        from.on('end', () => to.end());
        from.on('error', () => to.destroy());
        from.on('close', () => to.destroy());
      }
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new RecordingProxy(server, streams);
  }

  /** The link of the real repository, leading here. */
  through(joinLink: string): string {
    return joinLink.replace(/^http:\/\/[^/]+/, `http://127.0.0.1:${this.port}`);
  }

  get bytes(): number {
    return this.#streams.flat().reduce((total, { length }) => total + length, 0);
  }

  /** Whether what was carried so far holds the secret: as it is, as hex, or as base64 at any place of a longer text. */
  holds(secret: Buffer): boolean {
    const texts = writings(secret);
    return this.#streams.some((stream) => {
      const carried = Buffer.concat(stream);
      return texts.some((text) => carried.includes(text));
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
      // Ends with its clients, which the test has ended.
      this.#server.unref();
      resolve();
    });
  }
}

/** Base64 writes three bytes as four characters: the same bytes look different at each of three offsets. */
const writings = (secret: Buffer): Buffer[] => {
  const inBase64 = [0, 1, 2].flatMap((offset) => {
    const text = Buffer.concat([Buffer.alloc(offset), secret])
      .toString('base64')
      .replace(/=+$/, '');
    // Characters at the edges mix in bits of the neighbours.
    const inner = text.slice(offset === 0 ? 0 : offset + 1, (offset + secret.length) % 3 === 0 ? undefined : -1);
    return [inner, inner.replaceAll('+', '-').replaceAll('/', '_')];
  });
  const texts = [secret.toString('hex'), secret.toString('hex').toUpperCase(), ...inBase64];
  return [secret, ...texts.map((text) => Buffer.from(text, 'latin1'))];
};
