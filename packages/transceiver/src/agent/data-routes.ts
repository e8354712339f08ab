/** The local API about a person's data (data-types.ts), and what the agent has to offer for it. */
import type { FastifyBaseLogger, FastifyInstance, FastifyReply, RawServerDefault } from 'fastify';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import { AGENT_PATHS } from './agent-types.js';
import {
  continueBody,
  deleteBody,
  everyBody,
  openSnapshotBody,
  resetBody,
  restoreBody,
  restoreSnapshotBody,
  settingsBody,
  showSnapshotBody,
  snapshotsQuery,
  takeSnapshotBody,
  undoBody,
} from './agent-schemas.js';
import type { JobContext } from './agent-server.js';
import type {
  ContinueReply,
  ContinueRequest,
  DeleteRequest,
  EveryRequest,
  OpenSnapshotRequest,
  ResetRequest,
  RestoreReply,
  RestoreRequest,
  RestoreSnapshotRequest,
  ShowSnapshotRequest,
  SnapshotsReply,
  TakeSnapshotReply,
  TakeSnapshotRequest,
  UndoReply,
  UndoRequest,
} from './data-types.js';
import type { Settings } from './settings-file.js';

export interface DataCalls {
  snapshots(name: string, which: 'kept' | 'deleted'): Promise<SnapshotsReply>;
  takeSnapshot(request: TakeSnapshotRequest, job: JobContext): Promise<TakeSnapshotReply>;
  /** Serves until the signal of the job aborts. */
  openSnapshot(request: OpenSnapshotRequest, job: JobContext): Promise<unknown>;
  showSnapshot(request: ShowSnapshotRequest): Promise<void>;
  restoreSnapshot(request: RestoreSnapshotRequest): Promise<void>;
  setPeriod(request: EveryRequest): Promise<void>;
  undo(request: UndoRequest, job: JobContext): Promise<UndoReply>;
  reset(request: ResetRequest): Promise<void>;
  delete(request: DeleteRequest): Promise<void>;
  restore(request: RestoreRequest): Promise<RestoreReply>;
  continue(request: ContinueRequest): Promise<ContinueReply>;
  /** What is not named stays as it is. */
  settings(change: Partial<Settings>): Promise<Settings>;
}

type LocalApi = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;
type RunJob = (reply: FastifyReply, run: (job: JobContext) => Promise<unknown>) => Promise<void>;

export function serveData(app: LocalApi, data: DataCalls, runJob: RunJob): void {
  app.get(AGENT_PATHS.snapshots, { schema: { querystring: snapshotsQuery } }, async ({ query }) =>
    data.snapshots(query.name, query.which ?? 'kept'),
  );
  app.post(AGENT_PATHS.snapshotsTake, { schema: { body: takeSnapshotBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => data.takeSnapshot(body, job)),
  );
  app.post(AGENT_PATHS.snapshotsOpen, { schema: { body: openSnapshotBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => data.openSnapshot(body, job)),
  );
  app.post(AGENT_PATHS.snapshotsShow, { schema: { body: showSnapshotBody } }, async ({ body }) => {
    await data.showSnapshot(body);
    return {};
  });
  app.post(AGENT_PATHS.snapshotsRestore, { schema: { body: restoreSnapshotBody } }, async ({ body }) => {
    await data.restoreSnapshot(body);
    return {};
  });
  app.post(AGENT_PATHS.snapshotsEvery, { schema: { body: everyBody } }, async ({ body }) => {
    await data.setPeriod(body);
    return {};
  });
  app.post(AGENT_PATHS.undo, { schema: { body: undoBody } }, async ({ body }, reply) =>
    runJob(reply, async (job) => data.undo(body, job)),
  );
  app.post(AGENT_PATHS.reset, { schema: { body: resetBody } }, async ({ body }) => {
    await data.reset(body);
    return {};
  });
  app.post(AGENT_PATHS.delete, { schema: { body: deleteBody } }, async ({ body }) => {
    await data.delete(body);
    return {};
  });
  app.post(AGENT_PATHS.restore, { schema: { body: restoreBody } }, async ({ body }) => data.restore(body));
  app.post(AGENT_PATHS.continue, { schema: { body: continueBody } }, async ({ body }) => data.continue(body));
  app.post(AGENT_PATHS.settings, { schema: { body: settingsBody } }, async ({ body }) => data.settings(body));
}
