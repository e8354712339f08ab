/**
 * HTTP client of a repository, typed by the shared route table: one method, `call`, for every route. Over undici's
 * `request` on HTTP/1.1 connections (never `fetch`: four times the CPU). Answers are checked against the route's schema
 * and bounded; errors come back as the server's code, or as `repository-unreachable` and `wrong-server`.
 *
 * It does not retry, but for one thing: a `session` call whose token has expired is repeated once with a fresh one.
 */
import { Compile, type Validator } from '@collective/schema';
import { Pool, type Dispatcher } from 'undici';
import {
  CollectiveError,
  ERROR_TABLE,
  ROUTES,
  SNAPSHOT_PART_BYTES_MAX,
  isErrorCode,
  routePath,
  type ErrorCode,
  type RouteBody,
  type RouteName,
  type RouteParams,
  type RouteQuery,
  type RouteResponse,
} from '@collective/shared';
import { pinnedConnector, type RepositoryAddress } from './pinned-connector.js';

const CONNECTIONS_MAX = 8;
/** A server that sends nothing for so long is taken to be gone. */
const SILENCE_MS = 30_000;
const JSON_BYTES_MAX = 16 * 1024 * 1024;
/** An error's body is small; more is not read. */
const ERROR_BYTES_MAX = 64 * 1024;
export const BYTES_MAX_DEFAULT = 8 * 1024 * 1024;

/** Where a `session` call gets its bearer token. */
export interface TokenSource {
  /** A token that should work; `refused` is one that the server has just refused. Errors: `not-logged-in`, those of the login. */
  token(refused?: string): Promise<string>;
}

type Value<K extends string, T> = T extends undefined
  ? { readonly [key in K]?: undefined }
  : { readonly [key in K]: T };
export type CallOptions<N extends RouteName> = Value<'params', RouteParams<N>> &
  Value<'query', RouteQuery<N>> &
  Value<'body', RouteBody<N>> & {
    /** For `enrol` routes, and to use one token for a `session` route. */
    readonly token?: string;
    readonly signal?: AbortSignal;
    readonly responseBytesMax?: number;
  };

export type ObjectRange = {
  readonly subscription: string;
  readonly number: number;
  readonly range: string;
  readonly ifMatch?: string | undefined;
  readonly signal?: AbortSignal | undefined;
};
export type ObjectPart = {
  readonly bytes: Buffer;
  /** Where the part begins, and how long the whole object is. */
  readonly byteOffset: number;
  readonly objectBytes: number;
  /** For `ifMatch` of the next one. */
  readonly etag: string;
};

export class RepositoryClient {
  readonly address: RepositoryAddress;
  readonly #pool: Pool;
  #tokens: TokenSource | undefined;
  #sentBytes = 0;
  #receivedBytes = 0;
  #isAway = false;
  #onBack: () => void = () => undefined;

  constructor(address: RepositoryAddress, options: { readonly tokens?: TokenSource } = {}) {
    this.address = address;
    this.#tokens = options.tokens;
    this.#pool = new Pool(address.origin, {
      connections: CONNECTIONS_MAX,
      connect: pinnedConnector(address),
      headersTimeout: SILENCE_MS,
      bodyTimeout: SILENCE_MS,
    });
  }

  /** Bytes of bodies since the client was made, without headers and TLS. */
  get transferred(): { readonly sentBytes: number; readonly receivedBytes: number } {
    return { sentBytes: this.#sentBytes, receivedBytes: this.#receivedBytes };
  }

  useTokens(tokens: TokenSource): void {
    this.#tokens = tokens;
  }

  /** Called when the repository answers, whatever it says, after it could not be reached. */
  onBack(call: () => void): void {
    this.#onBack = call;
  }

  /**
   * One request. Bodies of bytes come back as a Buffer of at most `responseBytesMax` (8 MiB when absent). Errors: the
   * server's, `repository-unreachable`, `wrong-server`, `malformed` (an answer that the route does not allow),
   * `too-large`; abort rejects with the signal's reason.
   */
  async call<N extends RouteName>(name: N, options: CallOptions<N>): Promise<RouteResponse<N>> {
    const token = await this.#tokenFor(name, options.token);
    try {
      return await this.#once(name, options, token);
    } catch (error) {
      if (!isStaleToken(error) || options.token !== undefined || token === undefined || this.#tokens === undefined)
        throw error;
      return this.#once(name, options, await this.#tokens.token(token));
    }
  }

  /**
   * A piece of a snapshot's object (docs/formats/snapshot-object.md): at most 4 MiB, of a longer range the beginning.
   * `range`: `a-b`, `a-` or `-n`. `ifMatch`: only of the object with this tag. Errors: as `call`; `conflict` when the
   * object has been rewritten, `not-found`, `bad-request` for no range of it.
   */
  async objectRange(of: ObjectRange): Promise<ObjectPart> {
    const { subscription, number, range, ifMatch, signal } = of;
    const ask = async (token: string | undefined): Promise<ObjectPart> =>
      this.#askRange({ subscription, number }, { range, ifMatch, token, signal });
    const token = await this.#tokenFor('snapshotData', undefined);
    try {
      return await ask(token);
    } catch (error) {
      if (!isStaleToken(error) || token === undefined || this.#tokens === undefined) throw error;
      return ask(await this.#tokens.token(token));
    }
  }

  async close(): Promise<void> {
    await this.#pool.destroy();
  }

  async #tokenFor(name: RouteName, given: string | undefined): Promise<string | undefined> {
    if (given !== undefined) return given;
    const { auth } = ROUTES[name];
    if (auth === 'none') return undefined;
    if (auth === 'enrol' || this.#tokens === undefined) throw new CollectiveError('not-logged-in');
    return this.#tokens.token();
  }

  async #askRange(
    params: RouteParams<'snapshotData'>,
    request: {
      readonly range: string;
      readonly ifMatch: string | undefined;
      readonly token: string | undefined;
      readonly signal: AbortSignal | undefined;
    },
  ): Promise<ObjectPart> {
    const { range, ifMatch, token, signal } = request;
    const path = routePath('snapshotData', params);
    const { status, bytes, headers } = await this.#exchange(
      {
        method: 'GET',
        path,
        headers: {
          range: `bytes=${range}`,
          ...(ifMatch === undefined ? {} : { 'if-match': ifMatch }),
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        },
        body: null,
        ...(signal === undefined ? {} : { signal }),
      },
      SNAPSHOT_PART_BYTES_MAX,
    );
    if (status !== 200 && status !== 206) throw this.#errorOf(status, bytes, path);
    return { bytes, ...placeOf(status, bytes.length, headers) };
  }

  async #once<N extends RouteName>(
    name: N,
    options: CallOptions<N>,
    token: string | undefined,
  ): Promise<RouteResponse<N>> {
    const route = ROUTES[name];
    const body = requestBody(route.bodyKind, options.body);
    const headers: Record<string, string> = {};
    if (token !== undefined) headers['authorization'] = `Bearer ${token}`;
    if (body !== undefined)
      headers['content-type'] = route.bodyKind === 'json' ? 'application/json' : 'application/octet-stream';
    const path = routePath(name, options.params ?? {}, options.query ?? {});
    const { status, bytes } = await this.#exchange(
      {
        method: route.method,
        path,
        headers,
        body: body ?? null,
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      },
      route.responseKind === 'json' ? JSON_BYTES_MAX : (options.responseBytesMax ?? BYTES_MAX_DEFAULT),
    );
    if (status !== (('status' in route ? route.status : undefined) ?? 200)) throw this.#errorOf(status, bytes, path);
    return (route.responseKind === 'bytes' ? bytes : checkedJson(name, bytes)) as RouteResponse<N>;
  }

  async #exchange(
    request: Dispatcher.RequestOptions,
    bytesMax: number,
  ): Promise<{
    readonly status: number;
    readonly bytes: Buffer;
    readonly headers: Dispatcher.ResponseData['headers'];
  }> {
    try {
      const response = await this.#pool.request(request);
      this.#sentBytes += request.body instanceof Uint8Array ? request.body.length : 0;
      const limit = response.statusCode >= 400 ? ERROR_BYTES_MAX : bytesMax;
      const parts: Buffer[] = [];
      let total = 0;
      for await (const part of response.body) {
        const piece = part as Buffer;
        total += piece.length;
        if (total > limit) {
          throw new CollectiveError(
            'too-large',
            `${this.address.origin}${request.path} answers with more than ${String(limit)} bytes.`,
          );
        }
        parts.push(piece);
      }
      this.#receivedBytes += total;
      if (this.#isAway) {
        this.#isAway = false;
        this.#onBack();
      }
      return { status: response.statusCode, bytes: Buffer.concat(parts, total), headers: response.headers };
    } catch (error) {
      throw this.#transportError(error, request);
    }
  }

  #transportError(error: unknown, request: Dispatcher.RequestOptions): unknown {
    if (error instanceof CollectiveError) return error;
    const { signal } = request;
    if (signal instanceof AbortSignal && signal.aborted) return signal.reason;
    const reason = error instanceof Error ? error : new Error(String(error));
    const code = 'code' in reason && typeof reason.code === 'string' ? reason.code : '';
    if (/CERT|TLS|SSL|SIGNATURE/.test(code) && !code.startsWith('UND_ERR')) {
      return new CollectiveError(
        'wrong-server',
        `The certificate of ${this.address.origin} is not valid: ${reason.message} (${code}).`,
        {
          cause: error,
          data: { origin: this.address.origin },
        },
      );
    }
    this.#isAway = true;
    return new CollectiveError(
      'repository-unreachable',
      `The repository ${this.address.origin} cannot be reached: ${reason.message || code}.`,
      {
        cause: error,
        data: { origin: this.address.origin },
      },
    );
  }

  #errorOf(status: number, bytes: Buffer, path: string): CollectiveError {
    const where = `${this.address.origin}${path}`;
    try {
      const value: unknown = JSON.parse(bytes.toString('utf8'));
      if (
        typeof value === 'object' &&
        value !== null &&
        'code' in value &&
        typeof value.code === 'string' &&
        isErrorCode(value.code)
      ) {
        const said = 'message' in value && typeof value.message === 'string' ? value.message : undefined;
        const message = OF_ITS_DISK[value.code] ?? said?.slice(0, 2000) ?? ERROR_TABLE[value.code].sentence;
        return new CollectiveError(value.code, message, { data: 'data' in value ? plainData(value.data) : {} });
      }
    } catch {
      // Not an answer of ours: a proxy, or another server.
    }
    const code: ErrorCode = status >= 500 || status === 408 ? 'repository-unreachable' : 'bad-request';
    return new CollectiveError(code, `${where} answers with status ${String(status)}.`);
  }
}

/** The sentence of the table is of the disk of whoever says it: here it would be taken for this machine's. */
const OF_ITS_DISK: Partial<Readonly<Record<ErrorCode, string>>> = {
  'disk-full': 'The disk of the repository is full.',
  'local-io': 'The disk of the repository has failed.',
};

const isStaleToken = (error: unknown): boolean =>
  error instanceof CollectiveError && (error.code === 'token-expired' || error.code === 'not-logged-in');

const CONTENT_RANGE = /^bytes ([0-9]{1,15})-([0-9]{1,15})\/([0-9]{1,15})$/;

/** Which part of which object came. Errors: `malformed` when the headers do not go with the body. */
function placeOf(
  status: number,
  byteLength: number,
  headers: Dispatcher.ResponseData['headers'],
): Omit<ObjectPart, 'bytes'> {
  const { etag, 'content-range': range } = headers;
  const [, first, last, total] = CONTENT_RANGE.exec(typeof range === 'string' ? range : '') ?? [];
  const place =
    status === 200
      ? { byteOffset: 0, objectBytes: byteLength }
      : { byteOffset: Number(first), objectBytes: Number(total) };
  const isRight = status === 200 || Number(last) - Number(first) + 1 === byteLength;
  if (typeof etag !== 'string' || !isRight)
    throw new CollectiveError('malformed', 'The answer to snapshotData does not say which part it is.');
  return { ...place, etag };
}

function requestBody(kind: 'json' | 'bytes' | 'none', body: unknown): Uint8Array | undefined {
  if (kind === 'none') return undefined;
  return body instanceof Uint8Array ? body : Buffer.from(JSON.stringify(body), 'utf8');
}

const validators = new Map<RouteName, Validator>();

function checkedJson(name: RouteName, bytes: Buffer): unknown {
  const route = ROUTES[name];
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw new CollectiveError('malformed', `The answer to ${name} is not JSON.`, { cause });
  }
  if (!('response' in route)) return value;
  let validator = validators.get(name);
  if (validator === undefined) {
    validator = Compile(route.response);
    validators.set(name, validator);
  }
  if (!validator.Check(value))
    throw new CollectiveError('malformed', `The answer to ${name} does not have the form that its route documents.`);
  return value;
}

/** What only this machine says of its own disk: from a server it would be taken for that. */
const OF_THIS_MACHINE: readonly string[] = ['local', 'errno', 'missingBytes'];

function plainData(value: unknown): Record<string, string | number | boolean> {
  if (typeof value !== 'object' || value === null) return {};
  return Object.fromEntries(
    Object.entries(value).filter(
      (entry): entry is [string, string | number | boolean] =>
        ['string', 'number', 'boolean'].includes(typeof entry[1]) && !OF_THIS_MACHINE.includes(entry[0]),
    ),
  );
}
