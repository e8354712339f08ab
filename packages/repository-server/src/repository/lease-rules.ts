/** Who may write a subscription: pure rules over the newest lease and the server's clock. */
import { type Digest } from '@collective/shared';
import { type LeaseRecord } from '../catalogue/subscriptions.js';

export type LeaseClock = {
  readonly clock: { nowSeconds(): number };
  readonly limits: { readonly leaseSeconds: number };
};

/** Nothing was heard for the time of a lease. What was released has no time that could end. */
export const isExpired = (lease: LeaseRecord, { clock, limits }: LeaseClock): boolean =>
  !lease.isReleased && lease.lastHeartbeatAt + limits.leaseSeconds <= clock.nowSeconds();

/** May the device take the lease without taking it away from anybody who may still have something? */
export const isFree = (lease: LeaseRecord | undefined, device: Digest, at: LeaseClock): boolean =>
  lease === undefined ||
  lease.isReleased ||
  lease.device === device ||
  (isExpired(lease, at) && lease.unsavedBytes === 0);

/**
 * May a snapshot of this device be committed under this number? Under 0, which is for what was made disconnected, only
 * while no other device is at work; under another one when it is the newest and the device's own.
 */
export const mayCommit = (
  lease: LeaseRecord | undefined,
  of: { readonly lease: number; readonly device: Digest },
  at: LeaseClock,
): 'yes' | 'lease-lost' | 'lease-held' => {
  if (of.lease !== 0) return lease?.lease === of.lease && lease.device === of.device ? 'yes' : 'lease-lost';
  const isAtWork = lease !== undefined && !lease.isReleased && !isExpired(lease, at) && lease.device !== of.device;
  return isAtWork ? 'lease-held' : 'yes';
};
