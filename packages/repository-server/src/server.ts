/**
 * Listens: HTTP on loopback, TLS everywhere else. Takes the folder for itself (a second server on the same folder is
 * refused), empties tmp, heals what a crash left, signs heads before they expire, and closes in order.
 */
import { type AddressInfo, isIP } from 'node:net';
import { CollectiveError } from '@collective/shared';
import { type FastifyBaseLogger, type FastifyInstance } from 'fastify';
import { buildApp } from './app.js';
import { type Clock } from './clock.js';
import { housekeeping } from './housekeeping.js';
import { type Limits } from './limits.js';
import { joinLinkFor } from './repository/invite-account.js';
import { openRepository, repositoryPaths } from './repository/open-repository.js';
import { type Settings, writeSettings } from './repository/settings.js';
import { ChunkMemory } from './storage/chunk-memory.js';
import { FileLock } from './storage/file-lock.js';
import { readTls } from './tls-files.js';

const HOUSEKEEPING_MS = 600_000;

export type ServeOptions = {
  readonly folder: string;
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  /** Paths of PEM files. */
  readonly tls?: { readonly certificate: string; readonly key: string };
  readonly insecureHttp: boolean;
  /** The IP address of a proxy in front; by what it says of its callers attempts are counted, instead of by its own address. */
  readonly proxyAddress?: string;
  /** Scheme, host and port as people reach the server; by default what `init` was given, or where it listens. */
  readonly origin?: string;
  readonly limits: Limits;
  readonly clock: Clock;
  readonly logger?: FastifyBaseLogger;
};

export type RunningServer = {
  readonly origin: string;
  /** Without an invitation. */
  readonly joinLink: string;
  close(): Promise<void>;
};

/** Errors: `usage` for HTTP beyond loopback, `in-use`, `not-found`, `local-io`, and those of a damaged repository. */
export const startServer = async (options: ServeOptions): Promise<RunningServer> => {
  if (options.tls === undefined && !options.insecureHttp && !isLoopback(options.host)) {
    throw new CollectiveError(
      'usage',
      `HTTP without TLS is served on loopback only, not on ${options.host}: give --tls-cert and --tls-key, or --insecure-http behind a proxy that has TLS`,
    );
  }
  if (options.proxyAddress !== undefined && isIP(options.proxyAddress) === 0) {
    throw new CollectiveError('usage', `${options.proxyAddress} is not the IP address of a proxy`);
  }
  const tls = options.tls === undefined ? undefined : await readTls(options.tls);
  const open = await openRepository(options.folder);
  const serving = FileLock.open(repositoryPaths(options.folder).serving, { waitMsMax: 0 });
  let app: FastifyInstance | undefined;
  try {
    if (!serving.tryHoldUntilClosed()) throw new CollectiveError('in-use', `Another server serves ${options.folder}`);
    // Said now, not at the first commit of a person.
    await open.readRetention();
    // Under the lock: commands beside the server write state, trust and heads files under it.
    await open.catalogue.exclusively(() => open.blobStore.emptyTempFolder());
    const { limits, clock, logger } = options;
    const built = await buildApp({
      ...open,
      blobStore: new ChunkMemory(open.blobStore, { bytesMax: options.limits.chunkMemoryBytesMax }),
      limits,
      clock,
      ...(logger === undefined ? {} : { logger }),
      ...(tls === undefined ? {} : { tls }),
      ...(options.proxyAddress === undefined ? {} : { proxyAddress: options.proxyAddress }),
    });
    app = built.app;
    await housekeeping(built.repository);
    await app.listen({ host: options.host, port: options.port });
    const settings: Settings = {
      format: 1,
      origin:
        options.origin ??
        (open.settings.isOriginGiven ? open.settings.origin : listeningOrigin(app, options.host, tls !== undefined)),
      isOriginGiven: options.origin !== undefined || open.settings.isOriginGiven,
      pin: tls?.pin ?? null,
    };
    await writeSettings(open.files, options.folder, settings);
    const listening = app;
    const timer = setInterval(() => {
      housekeeping(built.repository).catch((error: unknown) =>
        listening.log.error({ err: error }, 'housekeeping failed'),
      );
    }, HOUSEKEEPING_MS);
    let closing: Promise<void> | undefined;
    const closeAll = async (): Promise<void> => {
      clearInterval(timer);
      await listening.close();
      await open.close();
      serving.close();
    };
    return {
      origin: settings.origin,
      joinLink: joinLinkFor(settings, built.repository.identity),
      close: () => (closing ??= closeAll()),
    };
  } catch (error) {
    await app?.close();
    await open.close();
    serving.close();
    throw listenError(error, options);
  }
};

const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));

const listeningOrigin = (app: FastifyInstance, host: string, isTls: boolean): string => {
  const address: AddressInfo | string | null = app.server.address();
  const port = address === null || typeof address === 'string' ? 0 : address.port;
  return `${isTls ? 'https' : 'http'}://${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
};

const listenError = (error: unknown, { host, port }: ServeOptions): unknown => {
  if (!(error instanceof Error) || !('code' in error)) return error;
  if (error.code === 'EADDRINUSE') return new CollectiveError('in-use', `${host}:${port} is in use`, { cause: error });
  if (error.code === 'EACCES' || error.code === 'EADDRNOTAVAIL') {
    return new CollectiveError('local-io', `cannot listen on ${host}:${port}: ${error.message}`, { cause: error });
  }
  return error;
};
