/**
 * The fastify application: routes, errors, limits, logs. It never listens; `server.ts` does. Logs are one JSON line per
 * request but for chunks, with route, status, account and duration; never headers, bodies or tokens (no route carries
 * a secret in its path).
 */
import Fastify, {
  LogController,
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from 'fastify';
import {
  CollectiveError,
  ERROR_TABLE,
  type ErrorBody,
  type ErrorCode,
  parseStrictJson,
  ROUTES,
} from '@collective/shared';
import { BodyBudget } from './body-budget.js';
import { ChunkConnections } from './chunk-connections.js';
import { RateLimiter } from './rate-limiter.js';
import { assembleRepository, type Repository, type RepositoryParts } from './repository/repository.js';
import { registerAccountRoutes } from './routes/account-routes.js';
import { registerAdminRoutes } from './routes/admin-routes.js';
import { registerCandidateRoutes } from './routes/candidate-routes.js';
import { registerChunkRoute } from './routes/chunk-route.js';
import { registerKeysRoutes } from './routes/keys-routes.js';
import { registerLoginRoutes } from './routes/login-routes.js';
import { registerOpenRoutes } from './routes/open-routes.js';
import { registerReadingRoutes } from './routes/reading-routes.js';
import { type RouteContext } from './routes/register-route.js';
import { registerSnapshotDataRoute } from './routes/snapshot-data-route.js';
import { registerSnapshotRoutes } from './routes/snapshot-routes.js';
import { registerSubscriptionRoutes } from './routes/subscription-routes.js';
import { registerUploadRoutes } from './routes/upload-routes.js';

export type AppOptions = RepositoryParts & {
  /** Absent: no logs. */
  readonly logger?: FastifyBaseLogger;
  /** Certificate chain and key, PEM. */
  readonly tls?: { readonly certificate: string; readonly key: string };
  /** Address of a proxy that is believed when it says whom it asks for (X-Forwarded-For). */
  readonly proxyAddress?: string;
};

export type App = { readonly app: FastifyInstance; readonly repository: Repository };

const JSON_BYTES_MAX = Math.max(
  ...Object.values(ROUTES)
    .filter(({ bodyKind }) => bodyKind === 'json')
    .map(({ bytesMax }) => bytesMax),
);
const KEEP_ALIVE_MS = 75_000;
const HEADERS_MS_MAX = 20_000;
const TIMEOUT_CHECK_MS = 5_000;

/** Errors: those of `assembleRepository`. */
export const buildApp = async (options: AppOptions): Promise<App> => {
  const repository = await assembleRepository(options);
  const { limits, clock } = repository;
  const fastifyOptions = {
    ...(options.logger === undefined ? {} : { loggerInstance: options.logger }),
    logController: new LogController({ disableRequestLogging: true }),
    requestTimeout: limits.requestMsMax,
    keepAliveTimeout: KEEP_ALIVE_MS,
    bodyLimit: 1,
    trustProxy: options.proxyAddress ?? false,
    routerOptions: { maxParamLength: 128 },
    // Errors before a route is found: a path that cannot be decoded.
    frameworkErrors: (error: unknown, request: FastifyRequest, reply: FastifyReply): void => {
      void replyWithError(error, request, reply);
    },
    return503OnClosing: true,
    forceCloseConnections: 'idle' as const,
  };
  // Node looks for requests that take too long only so often.
  const socketOptions = {
    headersTimeout: Math.min(HEADERS_MS_MAX, limits.requestMsMax),
    connectionsCheckingInterval: Math.min(TIMEOUT_CHECK_MS, limits.requestMsMax / 2),
  };
  const { tls } = options;
  const app: FastifyInstance =
    tls === undefined
      ? Fastify({ ...fastifyOptions, http: socketOptions })
      : Fastify({
          ...fastifyOptions,
          https: { ...socketOptions, cert: tls.certificate, key: tls.key, minVersion: 'TLSv1.2' },
        });
  app.server.maxConnections = limits.connectionsMax;
  app.decorateRequest('caller', undefined);
  addParsers(app);
  addErrorReplies(app);
  addRequestLog(app);
  const context: RouteContext = {
    repository,
    limiter: new RateLimiter(clock),
    bodies: new BodyBudget(limits.bodyBytesInFlightMax),
  };
  registerChunkRoute(app, context);
  registerOpenRoutes(app, context);
  registerLoginRoutes(app, context);
  registerKeysRoutes(app, context);
  registerAccountRoutes(app, context);
  registerReadingRoutes(app, context);
  registerUploadRoutes(app, context);
  registerCandidateRoutes(app, context);
  registerSubscriptionRoutes(app, context);
  registerSnapshotRoutes(app, context);
  registerSnapshotDataRoute(app, context);
  registerAdminRoutes(app, context);
  const chunks = new ChunkConnections({
    server: app.server,
    isTls: tls !== undefined,
    blobStore: repository.blobStore,
    firstBytesMs: socketOptions.headersTimeout,
    keepAliveMs: KEEP_ALIVE_MS,
  });
  app.addHook('preClose', (done) => {
    chunks.close();
    done();
  });
  for (const problem of repository.problems) app.log.error({ problem }, 'the repository is damaged: run check');
  return { app, repository };
};

const addParsers = (app: FastifyInstance): void => {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) =>
    done(null, body),
  );
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => {
    try {
      done(null, body.length === 0 ? undefined : parseStrictJson(Buffer.from(body), { bytesMax: JSON_BYTES_MAX }));
    } catch (error) {
      done(error instanceof Error ? error : new Error(String(error)));
    }
  });
};

const addErrorReplies = (app: FastifyInstance): void => {
  app.setErrorHandler(replyWithError);
  app.setNotFoundHandler(() => {
    throw new CollectiveError('not-found', 'There is no such route');
  });
};

const replyWithError = (error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply => {
  const known = toCollectiveError(error);
  const { httpStatus } = known.row;
  if (httpStatus >= 500) request.log.error({ err: error, route: request.routeOptions.url }, 'a request failed');
  if (known.code === 'rate-limited') reply.header('retry-after', String(known.data['seconds'] ?? 1));
  if (known.code === 'not-logged-in' || known.code === 'token-expired') reply.header('www-authenticate', 'Bearer');
  // A body that will not be read must not be taken for the next request.
  if (httpStatus === 413) reply.header('connection', 'close');
  return reply.code(httpStatus).type('application/json; charset=utf-8').send(errorBody(known));
};

/** What a stranger may know: of our own failures only the sentence of the table. */
const errorBody = (error: CollectiveError): ErrorBody => {
  const { sentence, hint, httpStatus } = error.row;
  const isOurs = httpStatus >= 500;
  return {
    code: error.code,
    message: (isOurs ? sentence : error.message).slice(0, 2_000),
    ...(hint === '' ? {} : { hint }),
    ...(isOurs || Object.keys(error.data).length === 0 ? {} : { data: { ...error.data } }),
  };
};

/** What others that work here throw: Fastify, and SQLite, whose catalogue finds the disk full as files do. */
const FOREIGN_CODES: Readonly<Record<string, ErrorCode>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'too-large',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'bad-request',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'bad-request',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'bad-request',
  FST_ERR_BAD_URL: 'bad-request',
  FST_ERR_MAX_PARAM_LENGTH: 'bad-request',
  SQLITE_FULL: 'disk-full',
};

const toCollectiveError = (error: unknown): CollectiveError => {
  if (error instanceof CollectiveError) return error;
  const text = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
  const code = FOREIGN_CODES[text] ?? (text === 'ECONNRESET' ? 'bad-request' : 'internal');
  return new CollectiveError(code, ERROR_TABLE[code].sentence, { cause: error });
};

const addRequestLog = (app: FastifyInstance): void => {
  app.addHook('onResponse', (request, reply, done) => {
    const route = request.routeOptions.url;
    if (route !== ROUTES.chunk.path || reply.statusCode >= 500) {
      request.log.info({
        method: request.method,
        route,
        status: reply.statusCode,
        account: request.caller?.account,
        address: request.ip,
        ms: Math.round(reply.elapsedTime * 10) / 10,
      });
    }
    done();
  });
};
