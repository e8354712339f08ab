/**
 * Chunks from a repository over HTTP/1.1. Demand has connections of its own, so that it never stands behind prefetch.
 *
 * A request that goes too long without a byte is abandoned (quiet-limit.ts), and with it every idle connection of its time:
 * they are as old and probably as dead. The next attempt (retry, above) finds new ones.
 */
import { CHUNK_HEADER_BYTES, CollectiveError } from '@collective/shared';
import { Pool, type Dispatcher } from 'undici';
import { pinnedConnector } from '../../repository/pinned-connector.js';
import type { BlockRequest, ChunkStore, GetOptions } from '../block-store.js';
import type { LinkMeter } from './link-meter.js';
import { quietLimitMs } from './quiet-limit.js';

/** Where chunks come from. */
export type Repository = {
  /** `https://host[:port]`, or `http://` for loopback. */
  readonly origin: string;
  /** SHA-256 of the server's public key, base64url; undefined when its certificate is a public one. */
  readonly pin?: string | undefined;
  /** Bearer token. */
  readonly token?: string | undefined;
};

export type HttpStoreOptions = {
  readonly meter: LinkMeter;
  /** Called when the server no longer takes the token. */
  readonly onTokenRefused?: () => void;
};

const DEMAND_CONNECTIONS = 16;
const BULK_CONNECTIONS = 8;
const KEEP_ALIVE_MS = 30_000;
const ERROR_BODY_BYTES_MAX = 64 << 10;

/** The longest chunk of a public block (docs/formats/blocks.md). */
const chunkBytesMax = (blockBytes: number): number => CHUNK_HEADER_BYTES + blockBytes + 28;

/** Connections of one time: they are renewed together. */
type Connections = { readonly demand: Pool; readonly bulk: Pool; users: number; isRetired: boolean };

type Answer = { readonly status: number; readonly retryAfter: string | undefined; readonly body: Buffer };

export class HttpStore implements ChunkStore {
  readonly #options: HttpStoreOptions;
  #repository: Repository;
  #connections: Connections;
  /** Breaks each request under way. */
  readonly #active = new Set<(error: CollectiveError) => void>();
  #outstandingBytes = 0;
  #closed = false;

  constructor(repository: Repository, options: HttpStoreOptions) {
    this.#repository = repository;
    this.#options = options;
    this.#connections = openConnections(repository);
  }

  /** Another token, or another way to the server: requests from now on use it. */
  setRepository(repository: Repository): void {
    const isSameServer = repository.origin === this.#repository.origin && repository.pin === this.#repository.pin;
    this.#repository = repository;
    if (!isSameServer) this.renewConnections();
  }

  /** An address of this machine has changed, or the network is back: what was open is not to be trusted. */
  renewConnections(): void {
    this.#retire();
    for (const fail of [...this.#active])
      fail(new CollectiveError('repository-unreachable', 'the connection was given up: the network has changed'));
  }

  async getChunk(request: BlockRequest, { rank, signal }: GetOptions): Promise<Buffer> {
    if (this.#closed) throw new CollectiveError('shutting-down');
    const answer = await this.#request(`/v1/chunks/${request.digest}`, {
      isDemand: rank.fetchClass === 'demand',
      bodyBytesMax: chunkBytesMax(request.blockBytes),
      expectedBytes: request.blockBytes,
      signal,
    });
    if (answer.status === 200) return answer.body;
    throw this.#statusError(answer, `block ${request.digest}`);
  }

  /** Refuses new requests, breaks those under way and closes all connections. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const { demand, bulk } = this.#connections;
    for (const fail of [...this.#active]) fail(new CollectiveError('shutting-down'));
    await Promise.all([demand.destroy(), bulk.destroy()]);
  }

  #request(
    path: string,
    options: {
      readonly isDemand: boolean;
      readonly bodyBytesMax: number;
      readonly expectedBytes: number;
      readonly signal: AbortSignal | undefined;
    },
  ): Promise<Answer> {
    const { signal } = options;
    const meter = this.#options.meter;
    const connections = this.#connections;
    const { token, origin } = this.#repository;
    connections.users += 1;
    this.#outstandingBytes += options.expectedBytes;
    return new Promise<Answer>((resolve, reject) => {
      const beganMs = performance.now();
      const parts: Buffer[] = [];
      let bodyBytes = 0;
      let status = 0;
      let retryAfter: string | undefined;
      let controller: Dispatcher.DispatchController | undefined;
      let isSettled = false;

      const settle = (): boolean => {
        if (isSettled) return false;
        isSettled = true;
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        this.#active.delete(fail);
        this.#outstandingBytes -= options.expectedBytes;
        connections.users -= 1;
        if (connections.isRetired && connections.users === 0) destroyConnections(connections);
        return true;
      };
      const fail = (error: Error): void => {
        if (!settle()) return;
        reject(error);
        controller?.abort(error);
      };
      const onAbort = (): void => fail(signal?.reason instanceof Error ? signal.reason : new Error('aborted'));
      const limitMs = quietLimitMs({ ...meter.line, outstandingBytes: this.#outstandingBytes });
      const timer = setTimeout(() => {
        if (connections === this.#connections) this.#retire();
        fail(new CollectiveError('repository-unreachable', `no byte from ${origin} for ${Math.round(limitMs)} ms`));
      }, limitMs);
      this.#active.add(fail);
      signal?.addEventListener('abort', onAbort, { once: true });

      (options.isDemand ? connections.demand : connections.bulk).dispatch(
        { path, method: 'GET', headers: token === undefined ? {} : { authorization: `Bearer ${token}` } },
        {
          onRequestStart: (started) => {
            controller = started;
            if (isSettled) started.abort(new Error('abandoned'));
          },
          onResponseStart: (_, statusCode, headers) => {
            status = statusCode;
            const after = headers['retry-after'];
            retryAfter = typeof after === 'string' ? after : undefined;
            meter.addFirstByte(performance.now() - beganMs);
            timer.refresh();
          },
          onResponseData: (_, part) => {
            timer.refresh();
            meter.addBytes(part.length);
            bodyBytes += part.length;
            const bytesMax = status === 200 ? options.bodyBytesMax : ERROR_BODY_BYTES_MAX;
            if (bodyBytes > bytesMax)
              fail(new CollectiveError('block-corrupt', `${origin}${path} sent more than ${bytesMax} bytes`));
            else parts.push(part);
          },
          onResponseEnd: () => {
            if (settle())
              resolve({
                status,
                retryAfter,
                body: parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts),
              });
          },
          onResponseError: (_, error) => fail(transportError(error, origin)),
        },
      );
    });
  }

  #statusError(answer: Answer, what: string): CollectiveError {
    const where = this.#repository.origin;
    const retryAfterMs = /^\d{1,5}$/.test(answer.retryAfter ?? '') ? Number(answer.retryAfter) * 1000 : undefined;
    const data = { status: answer.status, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
    const message = `${what} from ${where}: HTTP status ${answer.status}`;
    switch (answer.status) {
      case 401:
        this.#options.onTokenRefused?.();
        return new CollectiveError('token-expired', message, { data });
      case 403:
        return new CollectiveError('not-allowed', message, { data });
      case 404:
        return new CollectiveError('block-missing', message, { data });
      case 429:
        return new CollectiveError('rate-limited', message, { data });
      default:
        // A server that answers, but not with a block: backing off is right, a new connection at once is not.
        return new CollectiveError('internal', message, { data });
    }
  }

  #retire(): void {
    const old = this.#connections;
    this.#connections = openConnections(this.#repository);
    old.isRetired = true;
    if (old.users === 0) destroyConnections(old);
  }
}

const openConnections = ({ origin, pin }: Repository): Connections => {
  const connect = pinnedConnector(pin === undefined ? { origin } : { origin, pin });
  // The quiet limit replaces undici's time-outs; 0 switches them off.
  const common = {
    connect,
    pipelining: 1,
    headersTimeout: 0,
    bodyTimeout: 0,
    keepAliveTimeout: KEEP_ALIVE_MS,
    allowH2: false,
  };
  return {
    demand: new Pool(origin, { ...common, connections: DEMAND_CONNECTIONS }),
    bulk: new Pool(origin, { ...common, connections: BULK_CONNECTIONS }),
    users: 0,
    isRetired: false,
  };
};

const destroyConnections = ({ demand, bulk }: Connections): void => {
  for (const pool of [demand, bulk]) pool.destroy().catch(() => undefined);
};

const transportError = (error: unknown, origin: string): CollectiveError => {
  if (error instanceof CollectiveError) return error;
  const cause: unknown = error instanceof Error ? error.cause : undefined;
  if (cause instanceof CollectiveError) return cause;
  const message = error instanceof Error ? error.message : String(error);
  return new CollectiveError('repository-unreachable', `${origin}: ${message}`, { cause: error });
};
