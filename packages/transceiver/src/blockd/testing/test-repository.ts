/** A tiny HTTP server that serves chunks, lies, falls silent, goes away and comes back, as a test tells it. */
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Digest } from '@collective/shared';

/**
 * `silent`: takes the request and never answers. `stall`: sends half of the answer and stops. `slow`: sends it a few bytes at a
 * time. `endless`: sends it, and goes on sending. `reset`: closes the connection.
 */
export type Behaviour =
  | 'serve'
  | 'wrong-bytes'
  | 'other-block'
  | 'short'
  | 'huge'
  | 'garbage'
  | 'silent'
  | 'stall'
  | 'slow'
  | 'endless'
  | 'reset'
  | { readonly status: number; readonly retryAfter?: number };

export class TestRepository implements AsyncDisposable {
  readonly #chunks: ReadonlyMap<Digest, Buffer>;
  readonly requests: { readonly digest: Digest; readonly authorization: string | undefined }[] = [];
  #server: http.Server | undefined;
  #port = 0;
  /** What happens to each request; by default all are served. */
  behave: (digest: Digest, attempt: number) => Behaviour = () => 'serve';

  private constructor(chunks: ReadonlyMap<Digest, Buffer>) {
    this.#chunks = chunks;
  }

  static async open(chunks: ReadonlyMap<Digest, Buffer>): Promise<TestRepository> {
    const repository = new TestRepository(chunks);
    await repository.comeBack();
    return repository;
  }

  get origin(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  attemptsOf(digest: Digest): number {
    return this.requests.filter((request) => request.digest === digest).length;
  }

  /** Connections are reset, new ones refused. */
  async goAway(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    server?.closeAllConnections();
    await new Promise<void>((resolve) => (server === undefined ? resolve() : server.close(() => resolve())));
  }

  async comeBack(): Promise<void> {
    const server = http.createServer((request, response) => this.#answer(request, response));
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.#port, '127.0.0.1', resolve);
    });
    this.#port = (server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.goAway();
  }

  #answer(request: http.IncomingMessage, response: http.ServerResponse): void {
    const digest = (request.url ?? '').split('/').at(-1) as Digest;
    this.requests.push({ digest, authorization: request.headers.authorization });
    const chunk = this.#chunks.get(digest);
    const behaviour = this.behave(digest, this.attemptsOf(digest));
    if (typeof behaviour === 'object') {
      if (behaviour.retryAfter !== undefined) response.setHeader('retry-after', behaviour.retryAfter);
      response.writeHead(behaviour.status).end('{"code":"internal"}');
      return;
    }
    if (chunk === undefined) {
      response.writeHead(404).end();
      return;
    }
    const send = (bytes: Buffer): void => void response.setHeader('content-length', bytes.length).end(bytes);
    switch (behaviour) {
      case 'serve':
        return send(chunk);
      case 'wrong-bytes': {
        const wrong = Buffer.from(chunk);
        wrong[wrong.length - 1] = (wrong[wrong.length - 1] ?? 0) ^ 1;
        return send(wrong);
      }
      case 'other-block':
        return send([...this.#chunks].find(([other]) => other !== digest)?.[1] ?? Buffer.alloc(0));
      case 'short':
        return send(chunk.subarray(0, chunk.length >> 1));
      case 'huge':
        return send(Buffer.alloc(1 << 20));
      case 'garbage':
        return send(Buffer.from('<html>this is a captive portal</html>'));
      case 'silent':
        return;
      case 'stall':
        response.setHeader('content-length', chunk.length).write(chunk.subarray(0, chunk.length >> 1));
        return;
      case 'slow':
        response.setHeader('content-length', chunk.length);
        return drip(response, chunk, 16);
      case 'endless':
        response.write(chunk);
        return drip(response, Buffer.alloc(64 << 20), 65_536);
      case 'reset':
        request.socket.destroy();
        return;
      default:
        behaviour satisfies never;
    }
  }
}

/** A piece each tenth of a second, as long as the client is there. */
const drip = (response: http.ServerResponse, bytes: Buffer, pieceBytes: number): void => {
  let at = 0;
  const timer = setInterval(() => {
    response.write(bytes.subarray(at, (at += pieceBytes)));
    if (at < bytes.length) return;
    clearInterval(timer);
    response.end();
  }, 100);
  response.once('close', () => clearInterval(timer));
};
