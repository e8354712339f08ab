/**
 * Leases: taking, keeping alive, giving back, and the check of a commit. A taking happens under the lock, so that no
 * commit under the old number comes after the answer; its number is durable before it is answered.
 */
import { CollectiveError, type Digest } from '@collective/shared';
import { type Caller } from '../caller.js';
import { type LeaseRecord, type SubscriptionRecord } from '../catalogue/subscriptions.js';
import { type SubscriptionName } from '../storage/blob-names.js';
import { isExpired, isFree, mayCommit } from './lease-rules.js';
import { type Repository } from './repository.js';
import { deviceName, liveSubscription } from './subscriptions.js';

export type TakenLease = { readonly lease: number; readonly expiresAt: number };

/** Errors: `not-found`, `lease-held` (data: who, since when, and what is not saved yet). */
export const takeLease = async (
  repository: Repository,
  caller: Caller,
  subscription: string,
  { mode, basedOn }: { readonly mode: 'free' | 'steal'; readonly basedOn: number | null },
): Promise<TakenLease> => {
  const { catalogue, clock, limits } = repository;
  const device = callerDevice(caller);
  return catalogue.exclusively(async () => {
    const record = await liveSubscription(repository, { account: caller.account, subscription });
    if (mode === 'free' && !isFree(record.lease, device, repository)) throw await heldBy(repository, record.lease);
    const now = clock.nowSeconds();
    const lease: LeaseRecord = {
      lease: record.leaseNumber + 1,
      device,
      takenAt: now,
      lastHeartbeatAt: now,
      unsavedBytes: record.lease?.device === device ? record.lease.unsavedBytes : 0,
      isRunning: false,
      isReleased: false,
    };
    if (basedOn !== null) await catalogue.subscriptions.raiseDeviceBase(record, device, basedOn);
    await catalogue.subscriptions.setLease(record, lease);
    return { lease: lease.lease, expiresAt: now + limits.leaseSeconds };
  });
};

/** Errors: `not-found`, `lease-lost` (data: who has it now). */
export const beat = async (
  repository: Repository,
  caller: Caller,
  of: { readonly subscription: string; readonly lease: number },
  { basedOn, ...said }: { readonly unsavedBytes: number; readonly isRunning: boolean; readonly basedOn: number | null },
): Promise<number> => {
  const { catalogue, clock, limits } = repository;
  const record = await liveSubscription(repository, { account: caller.account, subscription: of.subscription });
  const now = clock.nowSeconds();
  const device = callerDevice(caller);
  // Also of one that has lost the lease: what it has not saved is based on that.
  if (basedOn !== null) await catalogue.subscriptions.raiseDeviceBase(record, device, basedOn);
  const isMine = record.lease?.device === device;
  if (!isMine || !(await catalogue.subscriptions.beat(record, of.lease, { ...said, lastHeartbeatAt: now })))
    throw await lostTo(repository, record);
  return now + limits.leaseSeconds;
};

/** Giving back what one does not have any more is `lease-lost`; twice is no error. */
export const releaseLease = async (
  repository: Repository,
  caller: Caller,
  of: { readonly subscription: string; readonly lease: number },
): Promise<void> => {
  const record = await liveSubscription(repository, { account: caller.account, subscription: of.subscription });
  const isMine = record.lease?.device === callerDevice(caller);
  if (!isMine || !(await repository.catalogue.subscriptions.releaseLease(record, of.lease)))
    throw await lostTo(repository, record);
};

/** Errors: `lease-lost`, `lease-held`. */
export const requireLease = async (
  repository: Repository,
  record: SubscriptionRecord,
  of: { readonly lease: number; readonly device: Digest },
): Promise<void> => {
  const answer = mayCommit(record.lease, of, repository);
  if (answer === 'lease-held') throw await heldBy(repository, record.lease);
  if (answer === 'lease-lost') throw await lostTo(repository, record);
};

/** A session has a device: its token came from the device's login. */
export const callerDevice = ({ device }: Caller): Digest => {
  if (device === undefined) throw new CollectiveError('not-allowed', 'Log in with the device for this');
  return device;
};

const heldBy = async (repository: Repository, lease: LeaseRecord | undefined): Promise<CollectiveError> => {
  if (lease === undefined) return new CollectiveError('lease-held');
  const { device, takenAt, lastHeartbeatAt, unsavedBytes } = lease;
  const name = await deviceName(repository, lease);
  return new CollectiveError(
    'lease-held',
    `In use on ${JSON.stringify(name)}, which has ${unsavedBytes} bytes not saved yet`,
    {
      data: {
        device,
        deviceName: name,
        takenAt,
        lastHeartbeatAt,
        unsavedBytes,
        isExpired: isExpired(lease, repository),
      },
    },
  );
};

const lostTo = async (repository: Repository, of: SubscriptionName): Promise<CollectiveError> => {
  const lease = (await repository.catalogue.subscriptions.subscription(of))?.lease;
  if (lease === undefined) return new CollectiveError('lease-lost', 'Nobody has a lease: take it first');
  const name = await deviceName(repository, lease);
  return new CollectiveError('lease-lost', `The newest lease is number ${lease.lease}, of ${JSON.stringify(name)}`, {
    data: { lease: lease.lease, device: lease.device, deviceName: name, takenAt: lease.takenAt },
  });
};
