/**
 * Puts a route of the shared table into fastify: authentication, role and rate before the body is read, the schemas of
 * the table for what comes in, the body limit, the status of the answer. A handler gets checked values and returns the
 * answer; it never sees fastify.
 */
import { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import {
  CollectiveError,
  ROUTES,
  type RouteBody,
  type RouteName,
  type RouteParams,
  type RouteQuery,
  type RouteResponse,
  type RouteSpec,
} from '@collective/shared';
import { Compile } from '@collective/schema';
import { type BodyBudget } from '../body-budget.js';
import { type Caller, identifyCaller } from '../caller.js';
import { addressKey, type RateLimiter } from '../rate-limiter.js';
import { type Repository } from '../repository/repository.js';

declare module 'fastify' {
  interface FastifyRequest {
    caller: Caller | undefined;
  }
}

export type RouteContext = {
  readonly repository: Repository;
  readonly limiter: RateLimiter;
  readonly bodies: BodyBudget;
};

export type RouteInput<N extends RouteName> = {
  readonly params: RouteParams<N>;
  readonly query: RouteQuery<N>;
  readonly body: RouteBody<N>;
  /** For counting attempts: the caller's address, an IPv6 one cut to its network. */
  readonly address: string;
  readonly caller: (typeof ROUTES)[N] extends { readonly auth: 'none' } ? undefined : Caller;
};

export type RouteHandler<N extends RouteName> = (input: RouteInput<N>) => Promise<RouteResponse<N>>;

export const registerRoute = <N extends RouteName>(
  app: FastifyInstance,
  context: RouteContext,
  name: N,
  handler: RouteHandler<N>,
): void => {
  const route: RouteSpec = ROUTES[name];
  const checkParams = checker(route.params, 'path');
  const checkQuery = checker(route.query, 'query');
  const checkBody = route.bodyKind === 'json' ? checker(route.body, 'body') : undefined;
  app.route({
    method: route.method,
    url: route.path,
    bodyLimit: Math.max(1, route.bytesMax),
    onRequest: async (request, reply) => admitRoute(context, route, request, reply),
    handler: async (request, reply) => {
      const input = {
        params: checkParams(withNumbers(request.params, route.params)),
        query: checkQuery(withNumbers(request.query, route.query)),
        body: route.bodyKind === 'bytes' ? bytesBody(request.body) : checkBody?.(request.body),
        address: addressKey(request.ip),
        caller: request.caller,
      };
      // The checks above are those of the table that the handler's types come from.
      const answer = await handler(input as unknown as RouteInput<N>);
      reply.code(route.status ?? 200);
      if (route.responseKind === 'bytes') reply.type('application/octet-stream');
      return reply.send(answer);
    },
  });
};

/** For a route that writes its answer itself: the checked parameters of its path. Errors: `bad-request`. */
export const checkedParams = <N extends RouteName>(name: N): ((params: unknown) => RouteParams<N>) => {
  const route: RouteSpec = ROUTES[name];
  const check = checker(route.params, 'path');
  return (params) => check(withNumbers(params, route.params)) as RouteParams<N>;
};

/** Everything that can be refused without reading the body. */
export const admitRoute = async (
  context: RouteContext,
  route: RouteSpec,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<void> => {
  const { repository, limiter, bodies } = context;
  const { limits } = repository;
  const address = addressKey(request.ip);
  if (route.rateClass === 'login') limiter.count(`login ${address}`, limits.loginsPerAddress);
  if (route.auth !== 'none') {
    const caller = await identifyCaller(repository, request.headers.authorization, route.auth);
    request.caller = caller;
    if (route.role === 'admin' && caller.role !== 'admin') {
      throw new CollectiveError('not-allowed', 'Only an administrator may do this');
    }
    if (route.rateClass !== 'bulk') limiter.count(`session ${caller.account}`, limits.sessionRequests);
  } else if (route.rateClass === 'open') {
    limiter.count(`open ${address}`, limits.openRequests);
  }
  bodies.admit(request.raw, reply.raw, route.bytesMax);
};

/** Path and query are text: where the schema wants an integer, plain decimal text becomes one. */
const withNumbers = (values: unknown, schema: RouteSpec['params']): unknown => {
  if (schema === undefined || typeof values !== 'object' || values === null) return values;
  const properties: Readonly<Record<string, { readonly type?: unknown }>> = schema.properties;
  return Object.fromEntries(
    Object.entries(values).map(([key, value]) => [
      key,
      properties[key]?.type === 'integer' && typeof value === 'string' && /^(0|[1-9][0-9]{0,15})$/.test(value)
        ? Number(value)
        : value,
    ]),
  );
};

const checker = (schema: RouteSpec['body'], where: string): ((value: unknown) => unknown) => {
  if (schema === undefined) return () => undefined;
  const validator = Compile(schema);
  return (value) => {
    if (validator.Check(value)) return value;
    const first = validator.Errors(value)[0];
    const place = first === undefined || first.instancePath === '' ? '' : ` at ${first.instancePath}`;
    throw new CollectiveError(
      'bad-request',
      `The ${where} is not valid${place}: ${first?.message ?? 'it has another shape'}`,
    );
  };
};

const bytesBody = (body: unknown): Buffer => (Buffer.isBuffer(body) ? body : Buffer.alloc(0));
