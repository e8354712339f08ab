/**
 * The agent's local API over a unix socket in the 0700 run folder: fastify, requests checked by schema, errors as
 * `{code, message, hint, data}`, long work as one JSON event a line. It knows HTTP and nothing else; what the calls do is
 * in the Agent that is passed in.
 */
import { chmod } from 'node:fs/promises';
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import { CollectiveError } from '@collective/shared';
import {
  AGENT_PATHS,
  type AgentStatus,
  type AppliancesReply,
  type ErrorReply,
  type ExportRequest,
  type JobEvent,
  type LoginPrepareReply,
  type LoginPrepareRequest,
  type LoginReply,
  type LoginRequest,
  type PublishRequest,
  type StartRequest,
  type StopRequest,
} from './agent-types.js';
import {
  consoleQuery,
  exportBody,
  loginBody,
  loginPrepareBody,
  publishBody,
  startBody,
  stopBody,
} from './agent-schemas.js';
import { removeIfThere } from '../storage/durable-file.js';

const REQUEST_BYTES_MAX = 256 * 1024;

/** Called by a long job with what happens; `signal` aborts when the client goes away. */
export type JobContext = { readonly emit: (event: JobEvent) => void; readonly signal: AbortSignal };

export interface AgentCalls {
  status(): Promise<AgentStatus>;
  prepareLogin(request: LoginPrepareRequest): Promise<LoginPrepareReply>;
  login(request: LoginRequest): Promise<LoginReply>;
  logout(): Promise<void>;
  appliances(): Promise<AppliancesReply>;
  start(request: StartRequest, job: JobContext): Promise<unknown>;
  stop(request: StopRequest): Promise<unknown>;
  console(name: string): Promise<unknown>;
  publish(request: PublishRequest, job: JobContext): Promise<unknown>;
  export(request: ExportRequest, job: JobContext): Promise<unknown>;
  /** Ends what runs beside the agent, then the agent. Errors: `in-use` while a machine runs. */
  shutdown(): Promise<void>;
}

export async function serveAgent(calls: AgentCalls, socketPath: string): Promise<FastifyInstance> {
  const app = Fastify({
    bodyLimit: REQUEST_BYTES_MAX,
    logger: false,
    forceCloseConnections: true,
    // What does not fit is refused: nothing is dropped or turned into another type.
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false } },
  }).withTypeProvider<TypeBoxTypeProvider>();
  app.setErrorHandler(async (error, _request, reply) => {
    const answer = errorReply(error);
    await reply
      .code(error instanceof CollectiveError ? error.row.httpStatus : answer.code === 'bad-request' ? 400 : 500)
      .send(answer);
  });
  app.get(AGENT_PATHS.status, async () => calls.status());
  app.post(AGENT_PATHS.loginPrepare, { schema: { body: loginPrepareBody } }, async ({ body }) =>
    calls.prepareLogin(body),
  );
  app.post(AGENT_PATHS.login, { schema: { body: loginBody } }, async ({ body }) => calls.login(body));
  app.post(AGENT_PATHS.logout, async () => {
    await calls.logout();
    return {};
  });
  app.get(AGENT_PATHS.appliances, async () => calls.appliances());
  app.post(AGENT_PATHS.start, { schema: { body: startBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => calls.start(body, job)),
  );
  app.post(AGENT_PATHS.stop, { schema: { body: stopBody } }, async ({ body }) => calls.stop(body));
  app.get(AGENT_PATHS.console, { schema: { querystring: consoleQuery } }, async ({ query }) =>
    calls.console(query.name),
  );
  app.post(AGENT_PATHS.publish, { schema: { body: publishBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => calls.publish(body, job)),
  );
  app.post(AGENT_PATHS.export, { schema: { body: exportBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => calls.export(body, job)),
  );
  app.post(AGENT_PATHS.shutdown, async () => {
    await calls.shutdown();
    return {};
  });
  // The home's lock is held: whatever is at this name was left by an agent that is dead.
  await removeIfThere(socketPath);
  await app.listen({ path: socketPath });
  await chmod(socketPath, 0o600);
  return app;
}

/** Runs a job while its events are written as lines. A client that goes away aborts it. */
async function runJob(reply: FastifyReply, run: (job: JobContext) => Promise<unknown>): Promise<void> {
  const controller = new AbortController();
  const response = reply.hijack().raw;
  response.on('close', () => {
    if (!response.writableFinished) controller.abort(new CollectiveError('shutting-down', 'The client went away.'));
  });
  response.on('error', () => undefined);
  response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  const emit = (event: JobEvent): void => {
    if (!controller.signal.aborted) response.write(`${JSON.stringify(event)}\n`);
  };
  try {
    emit({ event: 'result', value: await run({ emit, signal: controller.signal }) });
  } catch (error) {
    emit({ event: 'error', error: errorReply(error) });
  }
  response.end();
}

/** What a client is told of an error. A validation error of fastify is a `bad-request`; what nobody expected is written to the log. */
export function errorReply(error: unknown): ErrorReply {
  if (error instanceof CollectiveError) {
    return {
      code: error.code,
      message: error.message,
      ...(error.row.hint === '' ? {} : { hint: error.row.hint }),
      ...(Object.keys(error.data).length === 0 ? {} : { data: error.data }),
    };
  }
  const message = error instanceof Error ? error.message : String(error);
  const isBadRequest = error instanceof Error && 'statusCode' in error && error.statusCode === 400;
  if (!isBadRequest) console.error(new Date().toISOString(), error);
  return { code: isBadRequest ? 'bad-request' : 'internal', message };
}
