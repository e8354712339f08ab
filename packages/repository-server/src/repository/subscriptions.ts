/**
 * A person's subscriptions: making one, listing, deleting and bringing back. Whoever asks for another person's learns
 * that there is none: the account is part of every name.
 */
import { CollectiveError, type LeaseState, SUBSCRIPTIONS_MAX, type SubscriptionState } from '@collective/shared';
import { type Caller, requireUse } from '../caller.js';
import { type LeaseRecord, type SubscriptionRecord } from '../catalogue/subscriptions.js';
import { type SubscriptionName } from '../storage/blob-names.js';
import { isExpired } from './lease-rules.js';
import { type Repository } from './repository.js';
import { createSubscriptionFile, writeSubscriptionState } from './subscription-file.js';

/** One that is there, deleted or not. Errors: `not-found`. */
export const anySubscription = async ({ catalogue }: Repository, of: SubscriptionName): Promise<SubscriptionRecord> => {
  const record = await catalogue.subscriptions.subscription(of);
  if (record === undefined || record.state === 'forgotten')
    throw new CollectiveError('not-found', `You have no subscription ${of.subscription}`);
  return record;
};

/** One that is in use. Errors: `not-found`. */
export const liveSubscription = async (repository: Repository, of: SubscriptionName): Promise<SubscriptionRecord> => {
  const record = await anySubscription(repository, of);
  if (record.state !== 'live')
    throw new CollectiveError(
      'not-found',
      `The subscription ${of.subscription} has been deleted; it can be brought back`,
    );
  return record;
};

/**
 * Makes a subscription to an appliance that the caller may use; again is no error. Errors: `not-found`, `exists` when the
 * id is in use for something else or has been deleted, `too-large` for too many.
 */
export const createSubscription = async (
  repository: Repository,
  caller: Caller,
  wanted: { readonly subscription: string; readonly appliance: string },
): Promise<SubscriptionState> => {
  const { catalogue, blobStore, clock } = repository;
  const of = { account: caller.account, subscription: wanted.subscription };
  await requireUse(repository, caller, wanted.appliance);
  const record = await catalogue.exclusively(async () => {
    const known = await catalogue.subscriptions.subscription(of);
    if (known !== undefined) {
      if (known.appliance === wanted.appliance && known.state === 'live') return known;
      throw new CollectiveError('exists', `There is a subscription ${of.subscription} already, or was one`);
    }
    const count = (await catalogue.subscriptions.subscriptionsOf(caller.account)).filter(
      ({ state }) => state !== 'forgotten',
    ).length;
    if (count >= SUBSCRIPTIONS_MAX)
      throw new CollectiveError('too-large', `${caller.account} has ${count} subscriptions, which is the most`);
    const file = await createSubscriptionFile(blobStore, of, {
      appliance: wanted.appliance,
      createdAt: clock.nowSeconds(),
    });
    const made: SubscriptionRecord = {
      ...of,
      ...file,
      state: 'live',
      stateSince: 0,
      leaseNumber: 0,
      lease: undefined,
    };
    await catalogue.subscriptions.addSubscription(made);
    return made;
  });
  return stateOf(repository, record);
};

export const listSubscriptions = async (repository: Repository, account: string): Promise<SubscriptionState[]> => {
  const records = await repository.catalogue.subscriptions.subscriptionsOf(account);
  const states: SubscriptionState[] = [];
  for (const record of records) if (record.state !== 'forgotten') states.push(await stateOf(repository, record));
  return states;
};

/** Deletes, or brings back what was deleted; twice is no error and does not begin anew. Errors: `not-found`. */
export const changeSubscription = async (
  repository: Repository,
  of: SubscriptionName,
  state: 'live' | 'deleted',
): Promise<void> => {
  const { catalogue, blobStore, clock } = repository;
  await catalogue.exclusively(async () => {
    const record = await anySubscription(repository, of);
    if (record.state === state) return;
    const since = clock.nowSeconds();
    await writeSubscriptionState(blobStore, of, { state, since });
    await catalogue.subscriptions.setSubscriptionState(of, state, since);
  });
};

const stateOf = async (repository: Repository, record: SubscriptionRecord): Promise<SubscriptionState> => {
  const head = await repository.catalogue.subscriptions.head(record);
  return {
    subscription: record.subscription,
    appliance: record.appliance,
    createdAt: record.createdAt,
    deletedAt: record.state === 'live' ? null : record.stateSince,
    head: head === undefined ? null : { number: head.number, manifest: head.manifest, committedAt: head.committedAt },
    lease: record.lease === undefined ? null : await leaseStateOf(repository, record.lease),
  };
};

const leaseStateOf = async (repository: Repository, lease: LeaseRecord): Promise<LeaseState> => ({
  ...lease,
  deviceName: await deviceName(repository, lease),
  isExpired: isExpired(lease, repository),
});

/** Empty when the catalogue that knew the device is lost. */
export const deviceName = async ({ catalogue }: Repository, { device }: Pick<LeaseRecord, 'device'>): Promise<string> =>
  (await catalogue.people.device(device))?.name ?? '';
