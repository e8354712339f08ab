/** A person's snapshots: listing, manifests, pinning, bringing back; the data of one is in snapshot-data-route.ts. */
import { type FastifyInstance } from 'fastify';
import { CollectiveError, NUMBER_MAX, SNAPSHOTS_LISTED_MAX, type SnapshotSummary } from '@collective/shared';
import { type SnapshotPhase, type SnapshotRecord } from '../catalogue/subscriptions.js';
import { anySubscription } from '../repository/subscriptions.js';
import { pinSnapshot, restoreSnapshot } from '../repository/thin-snapshots.js';
import { snapshotManifestName } from '../storage/blob-names.js';
import { registerRoute, type RouteContext } from './register-route.js';
import { own } from './subscription-routes.js';

const STATES = {
  kept: ['kept'],
  deleted: ['deleted'],
  all: ['kept', 'deleted'],
} as const satisfies Record<string, readonly SnapshotPhase[]>;

export const registerSnapshotRoutes = (app: FastifyInstance, context: RouteContext): void => {
  const { repository } = context;
  const { subscriptions } = repository.catalogue;

  registerRoute(app, context, 'snapshots', async ({ caller, params, query }) => {
    const record = await anySubscription(repository, own(caller, params));
    const found = await subscriptions.snapshotsBelow(record, query.below ?? NUMBER_MAX + 1, {
      states: STATES[query.which ?? 'kept'],
      countMax: SNAPSHOTS_LISTED_MAX,
    });
    return found.map(summaryOf);
  });
  // Also of one that has been forgotten: the chain of parents leads through it.
  registerRoute(app, context, 'snapshotManifest', async ({ caller, params }) => {
    const record = await anySubscription(repository, own(caller, params));
    const snapshot = await subscriptions.snapshot(record, params.number);
    const isThere = snapshot !== undefined && snapshot.state !== 'pending';
    const bytes = isThere ? await repository.blobStore.read(snapshotManifestName(record, params.number)) : undefined;
    if (bytes === undefined) throw new CollectiveError('not-found', `There is no snapshot ${params.number}`);
    return bytes;
  });
  registerRoute(app, context, 'pinSnapshot', async ({ caller, params }) => {
    await pinSnapshot(repository, own(caller, params), params.number, true);
    return {};
  });
  registerRoute(app, context, 'unpinSnapshot', async ({ caller, params }) => {
    await pinSnapshot(repository, own(caller, params), params.number, false);
    return {};
  });
  registerRoute(app, context, 'restoreSnapshot', async ({ caller, params }) => {
    await restoreSnapshot(repository, own(caller, params), params.number);
    return {};
  });
};

const summaryOf = (record: SnapshotRecord): SnapshotSummary => ({
  number: record.number,
  manifest: record.manifest,
  createdAt: record.createdAt,
  committedAt: record.committedAt,
  reason: record.reason,
  addedBytes: record.addedBytes,
  pinned: record.pinned,
  deletedAt: record.state === 'deleted' ? record.stateSince : null,
});
