/** A client of a repository in this process, without a socket; a test loses requests and answers. */
import { CollectiveError, ROUTES, isErrorCode, type RouteName, type RouteResponse } from '@collective/shared';
import type { TestRepository } from '@collective/repository-server';
import type { BackupClient } from '@collective/transceiver';

type Options = {
  readonly params?: Readonly<Record<string, string | number>> | undefined;
  readonly query?: Readonly<Record<string, string | number>> | undefined;
  readonly body?: unknown;
};

export class InjectedClient {
  readonly #server: TestRepository;
  readonly #token: string;
  /** Names of the calls that were made, in order. */
  readonly calls: RouteName[] = [];
  /** What came up in parts of objects. */
  partBytes = 0;
  /** Throws for a request that does not arrive. */
  beforeCall: (name: RouteName) => void | Promise<void> = () => undefined;
  /** Throws for an answer that gets lost. */
  afterCall: (name: RouteName) => void | Promise<void> = () => undefined;

  constructor(server: TestRepository, token: string) {
    this.#server = server;
    this.#token = token;
  }

  /** As the backup takes it. */
  get client(): BackupClient {
    return {
      call: async (name, options) => {
        const { params, query, body } = options as Options;
        const reply = await this.#request(name, { params, query, body });
        if (name === 'uploadSnapshotPart' && body instanceof Uint8Array) this.partBytes += body.length;
        await this.afterCall(name);
        const isBytes = ROUTES[name].responseKind === 'bytes';
        return (isBytes ? reply.body : (JSON.parse(reply.body.toString('utf8')) as unknown)) as RouteResponse<
          typeof name
        >;
      },
      objectRange: async ({ subscription, number, range, ifMatch }) => {
        const { body, headers } = await this.#request('snapshotData', {
          params: { subscription, number },
          headers: { range: `bytes=${range}`, ...(ifMatch === undefined ? {} : { 'if-match': ifMatch }) },
        });
        await this.afterCall('snapshotData');
        const [, first, total] = /^bytes ([0-9]+)-[0-9]+\/([0-9]+)$/.exec(String(headers['content-range'])) ?? [];
        return {
          bytes: body,
          byteOffset: Number(first ?? 0),
          objectBytes: Number(total ?? body.length),
          etag: String(headers['etag']),
        };
      },
    };
  }

  async #request(
    name: RouteName,
    request: Options & { readonly headers?: Readonly<Record<string, string>> },
  ): ReturnType<TestRepository['request']> {
    this.calls.push(name);
    await this.beforeCall(name);
    const { params, query, body, headers } = request;
    const reply = await this.#server.request(name, {
      ...(params === undefined ? {} : { params }),
      ...(query === undefined ? {} : { query }),
      ...(body === undefined ? {} : { body }),
      ...(headers === undefined ? {} : { headers }),
      token: this.#token,
    });
    if (reply.status < 400) return reply;
    const { code, message, data } = reply.json() as { code: string; message: string; data?: Record<string, string> };
    throw new CollectiveError(isErrorCode(code) ? code : 'internal', message, { data: data ?? {} });
  }
}

export const unreachable = (): CollectiveError =>
  new CollectiveError('repository-unreachable', 'The repository cannot be reached: as the test wants it.');
