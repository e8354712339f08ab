/** A TCP proxy on loopback that counts what really crosses it: headers and all, both ways. */
import net from 'node:net';

export class CountingProxy implements AsyncDisposable {
  readonly port: number;
  readonly #server: net.Server;
  readonly #sockets: Set<net.Socket>;
  readonly #counters: { toServer: number; toClient: number };

  private constructor(
    server: net.Server,
    port: number,
    sockets: Set<net.Socket>,
    counters: { toServer: number; toClient: number },
  ) {
    this.#server = server;
    this.port = port;
    this.#sockets = sockets;
    this.#counters = counters;
  }

  static async before(realPort: number): Promise<CountingProxy> {
    const counters = { toServer: 0, toClient: 0 };
    const sockets = new Set<net.Socket>();
    const server = net.createServer((client) => {
      const upstream = net.connect(realPort, '127.0.0.1');
      for (const [from, to, count] of [
        [client, upstream, 'toServer'],
        [upstream, client, 'toClient'],
      ] as const) {
        sockets.add(from);
        from.on('data', (bytes: Buffer) => (counters[count] += bytes.length));
        from.pipe(to);
        from.on('error', () => to.destroy());
        from.once('close', () => {
          sockets.delete(from);
          to.destroy();
        });
      }
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    return new CountingProxy(server, address.port, sockets, counters);
  }

  get bytes(): { readonly toServer: number; readonly toClient: number } {
    return { ...this.#counters };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}
