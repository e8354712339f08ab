/** What the server says of a subscription, and whether a snapshot of ours is in its history. */
import { hasCode, sha256, type Digest, type SubscriptionState } from '@collective/shared';
import { signalOf, type BackupClient } from './backup-person.js';

type Client = Pick<BackupClient, 'call'>;

/** Undefined when the server does not know it. Errors: those of the network. */
export async function remoteSubscription(
  client: Client,
  subscription: string,
  signal?: AbortSignal,
): Promise<SubscriptionState | undefined> {
  const all = await client.call('subscriptions', signalOf(signal));
  return all.find((one) => one.subscription === subscription);
}

export type FoundCommit = { readonly number: number; readonly manifest: Digest; readonly committedAt: number };

/**
 * This manifest, if it is snapshot `number` there, whatever came after it: the answer to its commit got lost.
 * `committedAt` is the server's, or `createdAt` when that snapshot has been thinned out meanwhile.
 */
export async function findCommit(
  client: Client,
  of: {
    readonly subscription: string;
    readonly number: number;
    readonly manifest: Digest;
    readonly createdAt: number;
  },
  signal?: AbortSignal,
): Promise<FoundCommit | undefined> {
  const { subscription, number, manifest } = of;
  try {
    const found = await client.call('snapshotManifest', { params: { subscription, number }, ...signalOf(signal) });
    if (sha256(found) !== manifest) return undefined;
  } catch (error) {
    if (hasCode(error, 'not-found')) return undefined;
    throw error;
  }
  const [listed] = await client.call('snapshots', {
    params: { subscription },
    query: { below: number + 1, which: 'all' },
    ...signalOf(signal),
  });
  return { number, manifest, committedAt: listed?.number === number ? listed.committedAt : of.createdAt };
}
