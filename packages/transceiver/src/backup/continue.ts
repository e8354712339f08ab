/**
 * The two ways out of `apart`, and of a base that the repository has lost (docs/adr/0020). Each can be asked again after a kill or an outage in the middle, and loses
 * nothing: what the other device saved stays a snapshot, what is here becomes one.
 */
import { CollectiveError, hasCode, type Digest } from '@collective/shared';
import { newSubscriptionId, type BackupState } from './backup-file.js';
import { signalOf } from './backup-person.js';
import type { MachineBackup } from './machine-backup.js';
import { remoteSubscription } from './remote-head.js';
import { ascending, fetchSnapshot, type RestoreParts } from './restore.js';
import { requireNotOlder } from './snapshot-trust.js';
import { baseLost, giveUpLost, mendBases, unreadableOf } from './lost-base.js';
import { sealedAgain } from './pending-seals.js';

/**
 * What is here continues: the lease is taken away, and the next snapshot is what is here, made anew over the other head,
 * which is pinned and so stays. A suspended machine stays so, with its memory and its layers as they are. Errors: `bad-request` when nobody went apart, `untrusted`, `rollback`; those of the network:
 * then it is still apart.
 */
export async function continueHere(backup: MachineBackup, restore: RestoreParts): Promise<void> {
  requireApart(backup.state);
  const { trust, signal } = restore;
  await backup.alone(async ({ file, parts }) => {
    const { subscription, head: before } = file.state;
    // First: after this the other device commits nothing more, so the head stays what it is.
    await backup.leases.take('steal', signal);
    const remote = await remoteSubscription(parts.person.client, subscription, signal);
    const head = remote?.head ?? null;
    requireNotOlder(head ?? undefined, [before ?? undefined]);
    let deviceName = '';
    let theirs: Theirs = { disks: [], objects: [] };
    if (head !== null && head.manifest !== before?.manifest) {
      const of = { subscription, number: head.number, digest: head.manifest };
      ({ deviceName } = await trust.fetch(of, signal));
      theirs = await disksOnlyThere(restore, of, file.state);
      await parts.person.client.call('pinSnapshot', {
        params: { subscription, number: head.number },
        ...signalOf(signal),
      });
    }
    await file.update((state) => {
      const { pending } = state;
      const isOther = head !== null && head.manifest !== state.head?.manifest;
      return {
        ...state,
        apart: null,
        head: isOther ? { ...head, deviceName } : state.head,
        mustCommit: state.mustCommit || isOther,
        disks: [...state.disks, ...theirs.disks],
        objects: ascending([...state.objects, ...theirs.objects]),
        pending: pending?.kind === 'packed' ? sealedAgain(pending) : pending,
      };
    });
  });
  backup.reload();
  await sealIfNothingIs(backup);
}

/**
 * What is here continues without the blocks below it that neither the repository nor this machine has: they are zeroes from now on. What other
 * snapshots have is found first, and may be all. Without
 * `isDiscarded` nothing changes, and the error says how much that is. Errors: `base-lost`, `bad-request` when nothing is lost, `in-use`,
 * `suspended`; those of the network and of the block path.
 */
export async function continueWithout(
  backup: MachineBackup,
  { isDiscarded, signal }: { readonly isDiscarded: boolean; readonly signal?: AbortSignal },
): Promise<void> {
  const { parts, state, name } = backup;
  if (parts.isRunning()) throw new CollectiveError('in-use', `${name} is running: stop it first.`);
  if ((await requireLost(backup, signal)) === 'found') return;
  await backup.seal('request', { isOfAll: true });
  await backup.alone(async (context) => {
    const lost = await unreadableOf(context, (await mendBases(context, signal)).lost);
    if (lost.size > 0 && !isDiscarded) throw baseLost(name, lost, state.disks);
    await giveUpLost(context, lost);
  });
  backup.reload();
}

/** `found`: all of it is in other snapshots, and the base names those now. Errors: `bad-request` when nothing was lost. */
async function requireLost(backup: MachineBackup, signal?: AbortSignal): Promise<'lost' | 'found'> {
  // First: until then the overlays lie over the state before, and an undo that is on its way would be dropped.
  while (isComingTo(backup.state))
    if ((await backup.step(signal ?? new AbortController().signal)) === 'apart') throw new CollectiveError('apart');
  const { lost, isMended } = await backup.alone(async (context) => mendBases(context, signal));
  if (isMended) backup.reload();
  if (lost.size > 0) return 'lost';
  if (isMended) return 'found';
  throw nothingElse();
}

/** What is committed is being taken over, or an undo is on its way. */
const isComingTo = ({ pending }: BackupState): boolean =>
  pending?.kind === 'committed' || (pending?.kind === 'packed' && pending.isAnew);

const nothingElse = (): CollectiveError =>
  new CollectiveError(
    'bad-request',
    'No other device went on with this machine, and nothing of what it lies on is lost in the repository.',
  );

type Theirs = Pick<BackupState, 'disks' | 'objects'>;

/** Disks that a version brought which ran only on the other device: they are carried along. Errors: as fetchSnapshot. */
async function disksOnlyThere(
  restore: RestoreParts,
  of: { readonly subscription: string; readonly number: number; readonly digest: Digest },
  { disks: here }: BackupState,
): Promise<Theirs> {
  const { manifest } = await restore.trust.fetch(of, restore.signal);
  const isOnlyThere = (disk: { readonly name: string }): boolean => here.every(({ name }) => name !== disk.name);
  if (!manifest.disks.some((disk) => disk.kind === 'user' && isOnlyThere(disk))) return { disks: [], objects: [] };
  const { disks } = await fetchSnapshot(restore, of);
  return {
    disks: disks
      .filter(({ disk }) => isOnlyThere(disk))
      .map(({ disk }) => ({ ...disk, isAttached: false, mustBegin: true as const })),
    objects: manifest.objects,
  };
}

/**
 * Both stay: what is here becomes a subscription of its own, with everything in it; the other one stays where it is. Gives
 * the ids. `movesTo`: the name that its folder has to get; durable in the same step, so that after a kill whoever opens the
 * machine goes on (agent/moved-machine.ts): it never stays under the name of the other one. Needs no network where another device went on. Errors:
 * `bad-request` when nobody did, and nothing of what is here is lost in the repository.
 */
export async function keepBoth(
  backup: MachineBackup,
  movesTo?: string,
): Promise<{ readonly here: string; readonly other: string }> {
  if (backup.state.apart === null) {
    // Nothing would go on under its name.
    if (backup.state.head === null || (await requireLost(backup)) === 'found') throw nothingElse();
  }
  const ids = await backup.alone(async ({ file }) => {
    const other = file.state.subscription;
    const here = newSubscriptionId();
    await file.update((state) => {
      const { pending } = state;
      return {
        ...state,
        ...{ subscription: here, isRegistered: false, head: null, objects: [], lease: null, apart: null },
        ...{ mustResend: true, mustCommit: true },
        ...(movesTo === undefined ? {} : { movesTo }),
        pending: pending?.kind === 'packed' ? sealedAgain(pending) : pending,
      };
    });
    return { here, other };
  });
  backup.reload();
  await sealIfNothingIs(backup);
  return ids;
}

/**
 * What is here is saved in any case, also when nothing was written since. A suspended machine is not sealed: its memory goes with exactly
 * these layers. It stays suspended and can be resumed; `mustCommit` keeps in mind what is owed until it goes on or ends.
 */
const sealIfNothingIs = async (backup: MachineBackup): Promise<void> => {
  if (backup.state.pending !== null) return;
  await backup.seal('request').catch((error: unknown) => {
    if (!hasCode(error, 'suspended')) throw error;
  });
};

const requireApart = ({ apart }: BackupState): void => {
  if (apart === null) throw new CollectiveError('bad-request', 'No other device went on with this machine.');
};
