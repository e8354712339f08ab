/** A person's subscriptions, their leases, and the upload and commit of snapshots. */
import { type FastifyInstance } from 'fastify';
import { type Caller, readableAppliances } from '../caller.js';
import { commitSnapshot } from '../repository/commit-snapshot.js';
import { beat, releaseLease, takeLease } from '../repository/leases.js';
import {
  abandonSnapshotUpload,
  openSnapshotUpload,
  ownSnapshotUpload,
  uploadPart,
  uploadStateOf,
} from '../repository/snapshot-upload.js';
import { changeSubscription, createSubscription, listSubscriptions } from '../repository/subscriptions.js';
import { thinSubscription } from '../repository/thin-snapshots.js';
import { type SubscriptionName } from '../storage/blob-names.js';
import { registerRoute, type RouteContext } from './register-route.js';

/** The account is always the caller's own: no route names another one. */
export const own = (caller: Caller, { subscription }: { readonly subscription: string }): SubscriptionName => ({
  account: caller.account,
  subscription,
});

export const registerSubscriptionRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;

  registerRoute(app, context, 'subscriptions', async ({ caller }) => listSubscriptions(repository, caller.account));
  registerRoute(app, context, 'createSubscription', async ({ caller, params, body }) =>
    createSubscription(repository, caller, { ...params, ...body }),
  );
  registerRoute(app, context, 'deleteSubscription', async ({ caller, params }) => {
    await changeSubscription(repository, own(caller, params), 'deleted');
    return {};
  });
  registerRoute(app, context, 'restoreSubscription', async ({ caller, params }) => {
    await changeSubscription(repository, own(caller, params), 'live');
    return {};
  });

  registerRoute(app, context, 'takeLease', async ({ caller, params, body }) =>
    takeLease(repository, caller, params.subscription, body),
  );
  registerRoute(app, context, 'heartbeat', async ({ caller, params, body }) => ({
    expiresAt: await beat(repository, caller, params, body),
  }));
  registerRoute(app, context, 'releaseLease', async ({ caller, params }) => {
    await releaseLease(repository, caller, params);
    return {};
  });
  registerSnapshotUploadRoutes(app, context);
};

const registerSnapshotUploadRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;

  registerRoute(app, context, 'openSnapshotUpload', async ({ caller, params, body }) =>
    uploadStateOf(await openSnapshotUpload(repository, caller, params.subscription, body)),
  );
  registerRoute(app, context, 'snapshotUpload', async ({ caller, params }) =>
    uploadStateOf(await ownSnapshotUpload(repository, own(caller, params), params.upload)),
  );
  registerRoute(app, context, 'uploadSnapshotPart', async ({ caller, params, query, body }) => ({
    receivedBytes: await uploadPart(repository, own(caller, params), {
      upload: params.upload,
      byteOffset: query.offset,
      bytes: body,
    }),
  }));
  registerRoute(app, context, 'abandonSnapshotUpload', async ({ caller, params }) => {
    await abandonSnapshotUpload(repository, own(caller, params), params.upload);
    return {};
  });
  registerRoute(app, context, 'commitSnapshot', async ({ caller, params, body }) => {
    const readable = await readableAppliances(repository, caller);
    const of = own(caller, params);
    const committed = await commitSnapshot(repository, of, readable, { upload: params.upload, bytes: body });
    // What this fails at is done by the next commit, or by the collector: the snapshot is there.
    await thinSubscription(repository, of).catch((error: unknown) => {
      app.log.warn({ err: error }, 'snapshots could not be thinned');
    });
    return committed;
  });
};
