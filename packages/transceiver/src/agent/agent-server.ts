/**
 * The agent's local API over a unix socket in the 0700 run folder: fastify, requests checked by schema, errors as
 * `{code, message, hint, data}`, long work as one JSON event a line. It knows HTTP and nothing else; what the calls do is
 * in the Agent that is passed in.
 */
import { chmod } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type RawServerDefault,
} from 'fastify';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import { CollectiveError, ERROR_TABLE } from '@collective/shared';
import {
  AGENT_API,
  AGENT_API_HEADER,
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
  type LogoutReply,
  type LogoutRequest,
  type PublishRequest,
  type ScrubRequest,
  type StartRequest,
  type StopRequest,
  type SuspendRequest,
} from './agent-types.js';
import {
  candidatesBody,
  maintainBody,
  mandatoryBody,
  nameBody,
  publishMaintainedBody,
  updatesBody,
  versionBody,
  consoleQuery,
  exportBody,
  hoardBody,
  loginBody,
  loginPrepareBody,
  logoutBody,
  passwordBody,
  publishBody,
  recoveryCodeConfirmBody,
  revokeBody,
  scrubBody,
  startBody,
  stopBody,
  suspendBody,
  unlockBody,
} from './agent-schemas.js';
import { serveData, type DataCalls } from './data-routes.js';
import type { KeysCalls } from './keys-desk.js';
import type { VersionsCalls } from './versions-desk.js';
import { isNoRoom, removeIfThere } from '../storage/durable-file.js';

const REQUEST_BYTES_MAX = 256 * 1024;

/** Called by a long job with what happens; `signal` aborts when the client goes away. */
export type JobContext = { readonly emit: (event: JobEvent) => void; readonly signal: AbortSignal };

export interface AgentCalls {
  readonly keys: KeysCalls;
  readonly data: DataCalls;
  readonly versions: VersionsCalls;
  status(): Promise<AgentStatus>;
  prepareLogin(request: LoginPrepareRequest): Promise<LoginPrepareReply>;
  login(request: LoginRequest): Promise<LoginReply>;
  logout(request: LogoutRequest, job: JobContext): Promise<LogoutReply>;
  appliances(): Promise<AppliancesReply>;
  start(request: StartRequest, job: JobContext): Promise<unknown>;
  stop(request: StopRequest): Promise<unknown>;
  suspend(request: SuspendRequest): Promise<unknown>;
  console(name: string): Promise<unknown>;
  publish(request: PublishRequest, job: JobContext): Promise<unknown>;
  export(request: ExportRequest, job: JobContext): Promise<unknown>;
  scrub(request: ScrubRequest, job: JobContext): Promise<unknown>;
  /** Ends agent and supervisor; machines and blockd go on. */
  leave(): Promise<void>;
  /** Ends what runs beside the agent, then the agent. Errors: `in-use` while a machine runs. */
  shutdown(): Promise<void>;
}

type LocalApi = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

export async function serveAgent(calls: AgentCalls, socketPath: string): Promise<FastifyInstance> {
  const app: LocalApi = Fastify({
    bodyLimit: REQUEST_BYTES_MAX,
    logger: false,
    forceCloseConnections: true,
    // What does not fit is refused: nothing is dropped or turned into another type.
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false } },
  }).withTypeProvider<TypeBoxTypeProvider>();
  app.setErrorHandler(async (error, _request, reply) => {
    const answer = errorReply(error);
    await reply.code(ERROR_TABLE[answer.code].httpStatus).send(answer);
  });
  app.addHook('onSend', async (_request, reply) => void reply.header(AGENT_API_HEADER, AGENT_API));
  app.get(AGENT_PATHS.status, async () => calls.status());
  app.post(AGENT_PATHS.loginPrepare, { schema: { body: loginPrepareBody } }, async ({ body }) =>
    calls.prepareLogin(body),
  );
  app.post(AGENT_PATHS.login, { schema: { body: loginBody } }, async ({ body }) => calls.login(body));
  app.post(AGENT_PATHS.logout, { schema: { body: logoutBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => calls.logout(body, job)),
  );
  app.get(AGENT_PATHS.appliances, async () => calls.appliances());
  app.post(AGENT_PATHS.start, { schema: { body: startBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => calls.start(body, job)),
  );
  app.post(AGENT_PATHS.suspend, { schema: { body: suspendBody } }, async ({ body }) => calls.suspend(body));
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
  app.post(AGENT_PATHS.scrub, { schema: { body: scrubBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => calls.scrub(body, job)),
  );
  app.post(AGENT_PATHS.leave, async () => {
    await calls.leave();
    return {};
  });
  app.post(AGENT_PATHS.shutdown, async () => {
    await calls.shutdown();
    return {};
  });
  serveKeys(app, calls.keys);
  serveData(app, calls.data, runJob);
  serveVersions(app, calls.versions);
  // The home's lock is held: whatever is at this name was left by an agent that is dead.
  await removeIfThere(socketPath);
  await app.listen({ path: socketPath });
  await chmod(socketPath, 0o600);
  return app;
}

function serveKeys(app: LocalApi, keys: KeysCalls): void {
  app.post(AGENT_PATHS.password, { schema: { body: passwordBody } }, async ({ body }) => keys.changePassword(body));
  app.post(AGENT_PATHS.recoveryCode, async () => keys.newRecoveryCode());
  app.post(AGENT_PATHS.recoveryCodeConfirm, { schema: { body: recoveryCodeConfirmBody } }, async ({ body }) => {
    await keys.confirmRecoveryCode(body);
    return {};
  });
  app.get(AGENT_PATHS.devices, async () => keys.devices());
  app.post(AGENT_PATHS.devicesRevoke, { schema: { body: revokeBody } }, async ({ body }) => keys.revokeDevice(body));
  app.post(AGENT_PATHS.unlock, { schema: { body: unlockBody } }, async ({ body }) => keys.unlock(body));
}

function serveVersions(app: LocalApi, versions: VersionsCalls): void {
  app.post(AGENT_PATHS.maintain, { schema: { body: maintainBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => versions.maintain(body, job)),
  );
  app.post(AGENT_PATHS.maintainDiscard, { schema: { body: nameBody } }, async ({ body }) => {
    await versions.discardMaintenance(body);
    return {};
  });
  app.post(AGENT_PATHS.publishMaintained, { schema: { body: publishMaintainedBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => versions.publishMaintained(body, job)),
  );
  app.post(AGENT_PATHS.candidates, { schema: { body: candidatesBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => versions.candidates(body, job)),
  );
  app.post(AGENT_PATHS.promote, { schema: { body: versionBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => versions.promote(body, job)),
  );
  app.post(AGENT_PATHS.withdraw, { schema: { body: versionBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => versions.withdraw(body, job)),
  );
  app.post(AGENT_PATHS.mandatory, { schema: { body: mandatoryBody } }, async ({ body }) => {
    await versions.setMandatory(body);
    return {};
  });
  app.post(AGENT_PATHS.hoard, { schema: { body: hoardBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => versions.hoard(body, job)),
  );
  app.post(AGENT_PATHS.updates, { schema: { body: updatesBody } }, async ({ body }) => versions.updates(body));
}

/** Runs a job while its events are written as lines. A client that goes away aborts it. */
async function runJob(reply: FastifyReply, run: (job: JobContext) => Promise<unknown>): Promise<void> {
  const controller = new AbortController();
  const response = reply.hijack().raw;
  response.on('close', () => {
    if (!response.writableFinished) controller.abort(new CollectiveError('shutting-down', 'The client went away.'));
  });
  response.on('error', () => undefined);
  response.writeHead(200, { 'content-type': 'application/x-ndjson', [AGENT_API_HEADER]: AGENT_API });
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
  // Wherever in the home it was written to: what was there before is there still.
  if (isNoRoom(error))
    return errorReply(
      new CollectiveError('disk-full', `The local disk is full: ${error.message}`, { data: { local: true } }),
    );
  const message = error instanceof Error ? error.message : String(error);
  const isBadRequest = error instanceof Error && 'statusCode' in error && error.statusCode === 400;
  if (!isBadRequest) console.error(new Date().toISOString(), error);
  return { code: isBadRequest ? 'bad-request' : 'internal', message };
}
