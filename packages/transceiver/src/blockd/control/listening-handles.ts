/** Listening sockets that the parent process sends over another channel than the requests that name them: each waits for the other. */
import type net from 'node:net';
import { CollectiveError } from '@collective/shared';

/** How long a request waits for its socket. */
const WAIT_MS = 5_000;

export class ListeningHandles {
  readonly #here = new Map<string, net.Server>();
  readonly #waiters = new Map<
    string,
    { readonly take: (server: net.Server) => void; readonly giveUp: (error: Error) => void }
  >();
  /** Names of sockets that are still on their way and whose request has failed or has given up waiting. */
  readonly #unwanted = new Set<string>();
  #isSenderGone = false;

  /** One that the parent sent. */
  give(name: string, server: net.Server): void {
    if (this.#unwanted.delete(name)) {
      server.close();
      return;
    }
    const waiter = this.#waiters.get(name);
    if (waiter === undefined) this.#here.set(name, server);
    else waiter.take(server);
  }

  /** The parent has died: what has not come does not come any more. */
  senderIsGone(): void {
    this.#isSenderGone = true;
    for (const [name, { giveUp }] of this.#waiters) giveUp(notHandedOver(name));
  }

  /** The socket of that name, the caller's from now on. Error: `not-found` when it does not come. */
  async take(name: string): Promise<net.Server> {
    const known = this.#here.get(name);
    if (known !== undefined) {
      this.#here.delete(name);
      return known;
    }
    if (this.#isSenderGone) throw notHandedOver(name);
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<net.Server>((resolve, reject) => {
        this.#waiters.set(name, { take: resolve, giveUp: reject });
        timer = setTimeout(() => reject(notHandedOver(name)), WAIT_MS);
      });
    } catch (error) {
      this.#unwanted.add(name); // it may still come: a process that stood still finds the time over before it finds the socket
      throw error;
    } finally {
      clearTimeout(timer);
      this.#waiters.delete(name);
    }
  }

  /** Nobody will take this socket: kept, it would accept clients and never answer them. */
  refuse(name: string): void {
    const server = this.#here.get(name);
    if (server === undefined) this.#unwanted.add(name);
    else server.close();
    this.#here.delete(name);
  }

  close(): void {
    for (const server of this.#here.values()) server.close();
  }
}

const notHandedOver = (name: string): CollectiveError =>
  new CollectiveError('not-found', `no listening socket ${name} was handed over`);
