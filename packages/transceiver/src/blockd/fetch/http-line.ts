/**
 * The line to a repository over HTTP/1.1. Demand has connections of its own, so that it never stands behind prefetch.
 *
 * A request that goes too long without a byte is abandoned (quiet-limit.ts), and with it every idle connection of its time:
 * they are as old and probably as dead. The next attempt (retry, above) finds new ones.
 */
import { CollectiveError } from '@collective/shared';
import { Pool, type Dispatcher } from 'undici';
import { pinnedConnector } from '../../repository/pinned-connector.js';
import { systemClock, type Clock } from '../clock.js';
import type { LinkMeter } from './link-meter.js';
import { patienceAfter, quietLimitMs, wholeLimitMs } from './quiet-limit.js';

/** Where chunks come from. */
export type Repository = {
  /** `https://host[:port]`, or `http://` for loopback. */
  readonly origin: string;
  /** SHA-256 of the server's public key, base64url; undefined when its certificate is a public one. */
  readonly pin?: string | undefined;
  /** Bearer token. */
  readonly token?: string | undefined;
};

export type HttpLineOptions = {
  readonly meter: LinkMeter;
  /** Called when the server no longer takes the token. */
  readonly onTokenRefused?: () => void;
  readonly clock?: Clock;
  /** Makes connections of one kind to the server; a test gives a network of its own. */
  readonly openPool?: (repository: Repository, connections: number) => ConnectionPool;
};

/** What the store uses of undici's Pool. */
export type ConnectionPool = { dispatch: Pool['dispatch']; destroy(): Promise<void> };

const DEMAND_CONNECTIONS = 16;
/** As many as may be outstanding (scheduler-plan.ts); most lines need few of them. */
const BULK_CONNECTIONS = 32;
const KEEP_ALIVE_MS = 30_000;
const ERROR_BODY_BYTES_MAX = 64 << 10;

/** Connections of one time: they are renewed together. */
type Connections = {
  readonly demand: ConnectionPool;
  readonly bulk: ConnectionPool;
  users: number;
  isRetired: boolean;
};

type ActiveRequest = {
  readonly beganMs: number;
  /** When the last byte of it came; the same as `beganMs` before the first. */
  readonly heardMs: () => number;
  /** Breaks it. */
  readonly fail: (error: CollectiveError) => void;
};

export type HttpAnswer = {
  readonly status: number;
  readonly retryAfter: string | undefined;
  readonly contentRange: string | undefined;
  readonly body: Buffer;
};

export type HttpRequestOptions = {
  readonly isDemand: boolean;
  /** Beside the token. */
  readonly headers?: Readonly<Record<string, string>>;
  /** An answer that is longer is dropped (`block-corrupt`). */
  readonly bodyBytesMax: number;
  /** What will come, as far as is known: the time that it may take goes by it. */
  readonly expectedBytes: number;
  readonly signal: AbortSignal | undefined;
  /** So many more bytes of the body have come. */
  readonly onBytes?: ((byteLength: number) => void) | undefined;
};

export class HttpLine {
  readonly #options: HttpLineOptions;
  readonly #clock: Clock;
  #repository: Repository;
  #connections: Connections;
  readonly #active = new Set<ActiveRequest>();
  /** How patient to be with answers that trickle (quiet-limit.ts). */
  #patience = 1;
  #outstandingBytes = 0;
  /** When the last byte came, on any connection. */
  #lineHeardMs = Number.NEGATIVE_INFINITY;
  /** A request was given up for silence, and not a byte has come since. */
  #isLineSilent = false;
  #closed = false;

  constructor(repository: Repository, options: HttpLineOptions) {
    this.#repository = repository;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#connections = this.#open();
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
    for (const { fail } of [...this.#active])
      fail(
        new CollectiveError('repository-unreachable', 'the connection was given up: the network has changed', {
          data: { isRenewal: true },
        }),
      );
  }

  /** Refuses new requests, breaks those under way and closes all connections. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const { demand, bulk } = this.#connections;
    for (const { fail } of [...this.#active]) fail(new CollectiveError('shutting-down'));
    await Promise.all([demand.destroy(), bulk.destroy()]);
  }

  /**
   * What the server answers, whatever its status. Errors: `repository-unreachable`, `wrong-server`, `block-corrupt` (too long), `shutting-down`, the
   * signal's reason.
   */
  request(path: string, options: HttpRequestOptions): Promise<HttpAnswer> {
    if (this.#closed) return Promise.reject(new CollectiveError('shutting-down'));
    const { signal } = options;
    const meter = this.#options.meter;
    const clock = this.#clock;
    const connections = this.#connections;
    const { token, origin } = this.#repository;
    connections.users += 1;
    this.#outstandingBytes += options.expectedBytes;
    return new Promise<HttpAnswer>((resolve, reject) => {
      const beganMs = clock.nowMs();
      let heardMs = beganMs;
      const parts: Buffer[] = [];
      let bodyBytes = 0;
      let status = 0;
      let retryAfter: string | undefined;
      let contentRange: string | undefined;
      let sentMs = beganMs;
      let controller: Dispatcher.DispatchController | undefined;
      let isSettled = false;

      const settle = (): boolean => {
        if (isSettled) return false;
        isSettled = true;
        cancelTimer();
        signal?.removeEventListener('abort', onAbort);
        this.#active.delete(active);
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
      // A line on which nothing at all comes is not busy with what is in front of this request.
      const lineLimitMs = quietLimitMs({ ...meter.line, outstandingBytes: 0 });
      const patience = this.#patience;
      const wholeMs = wholeLimitMs(lineLimitMs, patience);
      const onQuiet = (): void => {
        if (clock.nowMs() >= beganMs + wholeMs) {
          if (connections === this.#connections) this.#retire();
          this.#patience = patienceAfter(this.#patience, { patience, wholeMs, tookMs: Number.POSITIVE_INFINITY });
          fail(
            new CollectiveError('repository-unreachable', `${bodyBytes} bytes from ${origin} in ${wholeMs} ms`, {
              data: { fault: 'net-slow' },
            }),
          );
          return;
        }
        const untilMs = Math.min(heardMs + limitMs, Math.max(heardMs, this.#lineHeardMs) + lineLimitMs);
        const leftMs = Math.min(untilMs, beganMs + wholeMs) - clock.nowMs();
        if (leftMs > 0) {
          cancelTimer = clock.after(leftMs, onQuiet);
          return;
        }
        if (connections === this.#connections) this.#retire();
        this.#isLineSilent = this.#lineHeardMs <= heardMs;
        fail(silence(origin, clock.nowMs() - heardMs));
      };
      let cancelTimer = clock.after(lineLimitMs, onQuiet);
      const active: ActiveRequest = { beganMs, heardMs: () => heardMs, fail };
      this.#active.add(active);
      const hear = (): void => {
        heardMs = clock.nowMs();
        this.#hear(active, origin);
      };
      signal?.addEventListener('abort', onAbort, { once: true });

      (options.isDemand ? connections.demand : connections.bulk).dispatch(
        {
          path,
          method: 'GET',
          headers: { ...options.headers, ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) },
        },
        {
          onRequestStart: (started) => {
            controller = started;
            sentMs = clock.nowMs(); // on a connection that is there
            if (isSettled) started.abort(new Error('abandoned'));
          },
          onResponseStart: (_, statusCode, headers) => {
            status = statusCode;
            const after = headers['retry-after'];
            retryAfter = typeof after === 'string' ? after : undefined;
            const range = headers['content-range'];
            contentRange = typeof range === 'string' ? range : undefined;
            hear();
            meter.addFirstByte(heardMs - sentMs);
          },
          onResponseData: (_, part) => {
            hear();
            meter.addBytes(part.length);
            bodyBytes += part.length;
            const bytesMax = status === 200 || status === 206 ? options.bodyBytesMax : ERROR_BODY_BYTES_MAX;
            if (bodyBytes > bytesMax)
              fail(
                new CollectiveError('block-corrupt', `${origin}${path} sent more than ${bytesMax} bytes`, {
                  data: { fault: 'net-too-long' },
                }),
              );
            else parts.push(part);
            options.onBytes?.(part.length);
          },
          onResponseEnd: () => {
            this.#patience = patienceAfter(this.#patience, { patience, wholeMs, tookMs: clock.nowMs() - beganMs });
            if (status === 200 || status === 206) meter.addChunk(bodyBytes);
            if (settle())
              resolve({
                status,
                retryAfter,
                contentRange,
                body: parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts),
              });
          },
          onResponseError: (_, error) => fail(transportError(error, origin)),
        },
      );
    });
  }

  /** A byte has come. After a silence it is the sign that the line is back, but not for connections that were opened in the silence. */
  #hear(heard: ActiveRequest, origin: string): void {
    this.#lineHeardMs = heard.heardMs();
    if (!this.#isLineSilent) return;
    this.#isLineSilent = false;
    for (const { beganMs, heardMs, fail } of [...this.#active]) {
      if (beganMs < heard.beganMs && heardMs() === beganMs) fail(silence(origin, this.#lineHeardMs - beganMs));
    }
  }

  /** The error that a status other than 200 or 206 stands for. Says so when the token is no longer taken. */
  statusError(answer: HttpAnswer, what: string): CollectiveError {
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
    this.#connections = this.#open();
    old.isRetired = true;
    if (old.users === 0) destroyConnections(old);
  }

  #open(): Connections {
    const open = this.#options.openPool ?? openPool;
    return {
      demand: open(this.#repository, DEMAND_CONNECTIONS),
      bulk: open(this.#repository, BULK_CONNECTIONS),
      users: 0,
      isRetired: false,
    };
  }
}

const openPool = ({ origin, pin }: Repository, connections: number): Pool =>
  new Pool(origin, {
    connect: pinnedConnector(pin === undefined ? { origin } : { origin, pin }),
    connections,
    pipelining: 1,
    // The quiet limit replaces undici's time-outs; 0 switches them off.
    headersTimeout: 0,
    bodyTimeout: 0,
    keepAliveTimeout: KEEP_ALIVE_MS,
    allowH2: false,
  });

const destroyConnections = ({ demand, bulk }: Connections): void => {
  for (const pool of [demand, bulk]) pool.destroy().catch(() => undefined);
};

const silence = (origin: string, quietMs: number): CollectiveError =>
  new CollectiveError('repository-unreachable', `no byte from ${origin} for ${Math.round(quietMs)} ms`, {
    data: { fault: 'net-silent' },
  });

const transportError = (error: unknown, origin: string): CollectiveError => {
  if (error instanceof CollectiveError) return error;
  const cause: unknown = error instanceof Error ? error.cause : undefined;
  if (cause instanceof CollectiveError) return cause;
  const message = error instanceof Error ? error.message : String(error);
  return new CollectiveError('repository-unreachable', `${origin}: ${message}`, { cause: error });
};
