/**
 * A server in front of a real one that lies where it is told to: it passes every request on, but for the paths that a
 * test has an answer for. The join link of the real repository, with this server's port, leads a person here.
 */
import { createServer, request, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export type Lie = (real: Buffer) => { readonly status?: number; readonly body: Buffer | string | object };

export class LyingServer implements AsyncDisposable {
  readonly port: number;
  readonly #server: Server;
  readonly #lies = new Map<string, Lie>();

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.port = port;
  }

  static async before(realPort: number): Promise<LyingServer> {
    const truth: { lying?: LyingServer } = {};
    const server = createServer((incoming, outgoing) => {
      const forward = request(
        { host: '127.0.0.1', port: realPort, method: incoming.method, path: incoming.url, headers: incoming.headers },
        (answer) => {
          const isAnswered = read(answer).then((real) => {
            const lie = truth.lying?.lieFor(incoming.url ?? '');
            if (lie === undefined) {
              outgoing
                .writeHead(answer.statusCode ?? 500, { 'content-type': answer.headers['content-type'] ?? '' })
                .end(real);
              return;
            }
            const { status, body } = lie(real);
            const bytes = Buffer.isBuffer(body) || typeof body === 'string' ? body : JSON.stringify(body);
            outgoing
              .writeHead(status ?? 200, {
                'content-type':
                  typeof body === 'object' && !Buffer.isBuffer(body) ? 'application/json' : 'application/octet-stream',
              })
              .end(bytes);
          });
          // The real one went away in the middle of its answer.
          isAnswered.catch(() => outgoing.destroy());
        },
      );
      forward.on('error', () => outgoing.destroy());
      incoming.pipe(forward);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const lying = new LyingServer(server, (server.address() as AddressInfo).port);
    truth.lying = lying;
    return lying;
  }

  /** From now on requests whose path begins with `path` are answered by `lie`; undefined: the truth again. */
  lie(path: string, lie: Lie | undefined): void {
    if (lie === undefined) this.#lies.delete(path);
    else this.#lies.set(path, lie);
  }

  lieFor(path: string): Lie | undefined {
    for (const [prefix, lie] of this.#lies) if (path.startsWith(prefix)) return lie;
    return undefined;
  }

  /** The link of the real repository, leading here. */
  through(joinLink: string): string {
    return joinLink.replace(/^http:\/\/[^/]+/, `http://127.0.0.1:${this.port}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

const read = async (stream: IncomingMessage): Promise<Buffer> => {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part as Buffer);
  return Buffer.concat(parts);
};
