/** The emulated network link (../shared/tools/link.mjs) as a child process. */
import { createServer } from 'node:net';
import { Child } from './child.js';
import { LINK } from './paths.js';

export type LinkProfile = 'lan' | 'cable' | 'lte' | 'dsl' | 'none';

export type LinkRates = {
  readonly downBitsPerSecond: number;
  readonly upBitsPerSecond: number;
  readonly roundTripMs: number;
};

const ratesAsWords = ({ downBitsPerSecond, upBitsPerSecond, roundTripMs }: LinkRates): string[] => [
  ...['--down', `${downBitsPerSecond / 1_000}kbit`, '--up', `${upBitsPerSecond / 1_000}kbit`],
  ...['--rtt', `${roundTripMs}ms`],
];

/** A TCP port of the loopback interface that was free a moment ago. */
export const freePort = async (): Promise<number> =>
  await new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() =>
        address !== null && typeof address === 'object' ? resolve(address.port) : reject(new Error('no port')),
      );
    });
  });

export class Link implements AsyncDisposable {
  readonly port: number;
  readonly #child: Child;

  private constructor(port: number, child: Child) {
    this.port = port;
    this.#child = child;
  }

  static async open(options: {
    readonly toPort: number;
    readonly profile: LinkProfile;
    /** Instead of the profile's. */
    readonly rates?: LinkRates;
    readonly port?: number;
  }): Promise<Link> {
    const port = options.port ?? (await freePort());
    const child = new Child('link', process.execPath, [
      LINK,
      ...['--listen', `127.0.0.1:${port}`, '--to', `127.0.0.1:${options.toPort}`, '--profile', options.profile],
      ...(options.rates === undefined ? [] : ratesAsWords(options.rates)),
    ]);
    await child.waitFor(/link up/);
    return new Link(port, child);
  }

  get process(): Child {
    return this.#child;
  }

  /** Every connection is reset, new ones are refused. */
  down(): void {
    this.#child.kill('SIGUSR1');
  }

  /** Every connection stays open and carries nothing again. */
  silence(): void {
    this.#child.kill('SIGHUP');
  }

  up(): void {
    this.#child.kill('SIGUSR2');
  }

  /** Ends the link and says what it carried, in bytes each way. */
  async close(): Promise<{ readonly connections: number; readonly downBytes: number; readonly upBytes: number }> {
    const { stdout } = await this.#child.stop('SIGTERM');
    const line = stdout.trim().split('\n').at(-1) ?? '';
    return JSON.parse(line) as { connections: number; downBytes: number; upBytes: number };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.stop();
  }
}
