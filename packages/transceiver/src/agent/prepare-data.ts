/**
 * Before a machine starts: the newest state of the person's disks is here, and the lease is this device's. In an outage what is here is used.
 */
import { join } from 'node:path';
import { CollectiveError, hasCode, type ProfileSubscription } from '@collective/shared';
import type { DiskBeginning } from '../backup/backup-file.js';
import type { BackupPerson } from '../backup/backup-person.js';
import type { MachineParts } from '../backup/backup-types.js';
import { MachineBackup } from '../backup/machine-backup.js';
import { restoreMachine, type RestoreParts } from '../backup/restore.js';
import { troubleOf } from '../backup/retry-plan.js';
import { catchUp, drain, prepareStart } from '../backup/switch-state.js';
import { endVersion, isVersionChange } from '../backup/version-change.js';
import type { Home } from '../home.js';
import type { JobContext } from './agent-server.js';
import { beginningOf, keepDisks, noteVersion, writerOf } from './begin-version.js';
import { chooseDiskKey } from './disk-key-ring.js';
import type { PlannedDisk } from './machine-port.js';
import { isAway } from './repository-access.js';
import type { RunnableVersion } from './runnable-version.js';
import type { Session } from './session.js';
import { Subscription } from './subscription.js';

export type StartWish = {
  readonly name: string;
  readonly appliance: string;
  readonly version: RunnableVersion;
  readonly isOnline: boolean;
  /** Another device's lease is taken over. */
  readonly isTakenOver: boolean;
  readonly job: JobContext;
};

/** What of PersonData a start needs. */
export type StartContext = {
  readonly home: Home;
  readonly session: Session;
  readonly person: BackupPerson;
  readonly restoreParts: (name: string, signal?: AbortSignal) => RestoreParts;
  readonly parts: (name: string) => MachineParts;
  readonly overlayOf: (name: string) => (disk: string) => string;
  /** Reads the machine's files; undefined: there is nothing of it. */
  readonly takeUp: (name: string) => Promise<MachineBackup | undefined>;
  readonly inProfile: (name: string) => ProfileSubscription | undefined;
  /** As PersonData.nameHere. */
  readonly nameHere: (subscription: string) => string | undefined;
  /** What the person is told when it runs. */
  readonly notes: string[];
};

/** What is here is brought up to date. Errors: `lease-held`, `apart`, `rollback`, `untrusted`, `not-found` (deleted elsewhere), `wrong-key`. */
export async function prepareData(backup: MachineBackup, wish: StartWish, context: StartContext): Promise<void> {
  const { name, isOnline, job } = wish;
  const { home, session, notes } = context;
  // First: what is locked since a reset is neither saved nor brought up to date.
  const subscription = await Subscription.open(home.machinesDirectory, name);
  chooseDiskKey(session.diskKeys, await subscription.keyChecks(), `a disk of ${name}`);
  const prepare = async (): Promise<void> => {
    if (await prepareStart(backup, job.signal))
      notes.push('The undo had not reached the repository and was dropped: your disk is as it was before it.');
  };
  let isEnded = false;
  // After what another device has saved is here: it may have run this version already.
  const endVersionBefore = async (): Promise<boolean> => {
    if (isEnded || !isVersionChange(backup, writerOf(wish))) return false;
    // First: what an undo that is dropped leaves is not what a version wrote.
    await prepare();
    await endVersion(backup);
    isEnded = true;
    return true;
  };
  if (isOnline && backup.state.isRegistered) {
    refuseDeleted(backup, context);
    try {
      const said = await catchUp(backup, context.restoreParts(name, job.signal));
      if (said === 'apart') throw apart(backup);
      if (said === 'caught-up')
        notes.push(`Your disk is as ${backup.state.head?.deviceName ?? 'another device'} left it.`);
      await takeLease(backup, wish);
      // What the other device saved before it was taken away.
      if (wish.isTakenOver && (await catchUp(backup, context.restoreParts(name, job.signal))) === 'apart')
        throw apart(backup);
      // What the version before wrote is saved and pinned ahead of the start; in an outage that is done later.
      if ((await endVersionBefore()) && (await drain(backup, job.signal)) === 'apart') throw apart(backup);
    } catch (error) {
      // A repository whose disk is full, or that has lost something, keeps nobody from their machine, as one that is away.
      if (!isAway(error) && troubleOf(error) !== 'repository-full' && !hasCode(error, 'base-lost')) throw error;
      notes.push(`Your disk is as it was here: ${String(error)}`);
    }
  }
  if (backup.state.apart !== null) throw apart(backup);
  await prepare();
  await endVersionBefore();
  await noteVersion(backup, { ...wish, subscription });
}

/**
 * Of a version without a user disk, on a machine that nothing is here of: might one of its ephemeral disks be the person's by another
 * version, on another device? Then that is brought, and goes on as theirs. Without the repository it begins as an ephemeral one, and gives
 * way to theirs later: the person is told.
 */
export async function mayBringData(wish: StartWish, { home, notes, inProfile }: StartContext): Promise<boolean> {
  const { name, version, isOnline } = wish;
  const head = inProfile(name)?.head ?? null;
  if (head === null || version.disks.every(({ description }) => description.kind !== 'ephemeral')) return false;
  // One of before the backup: bringData leaves it alone, too.
  const subscription = await Subscription.read(home.machinesDirectory, name);
  if (subscription !== undefined && subscription.userDisks.length > 0) return false;
  if (!isOnline)
    notes.push(
      `Your disk of ${name}, which was saved on ${head.deviceName}, is not on this machine: what you write now stays here only, and gives way to it when the repository is there.`,
    );
  return isOnline;
}

/** A machine that is not here yet: what another device saved of it, or the beginning. */
export async function bringData(
  wish: StartWish,
  user: readonly PlannedDisk[],
  context: StartContext,
): Promise<MachineBackup> {
  const { name, appliance, isOnline, job } = wish;
  const { home, notes } = context;
  const folder = join(home.machinesDirectory, name);
  // One that could not be read at the login is read again, or is the error: never begun anew over what is there.
  const taken = await context.takeUp(name);
  if (taken !== undefined && taken.name !== name)
    throw new CollectiveError('conflict', `${name} is called ${taken.name} on all of your devices now: start that.`);
  if (taken !== undefined) return taken;
  const known = context.inProfile(name);
  const here = known === undefined ? undefined : context.nameHere(known.id);
  if (here !== undefined)
    throw new CollectiveError(
      'in-use',
      `${name} is still called ${here} on this machine, and is running or suspended: stop it first.`,
    );
  const subscription = await Subscription.open(home.machinesDirectory, name);
  if (known?.head !== undefined && known.head !== null && subscription.userDisks.length === 0) {
    if (!isOnline)
      throw new CollectiveError(
        'repository-unreachable',
        `Your disk of ${name} was saved on ${known.head.deviceName}; it is not on this machine, and the repository cannot be reached.`,
      );
    const when = new Date(known.head.savedAt * 1000).toLocaleString();
    job.emit({ event: 'note', text: `Your disk of ${name} was last saved ${when} on "${known.head.deviceName}".` });
    await restoreMachine(context.restoreParts(name, job.signal), { folder, subscription: known.id, appliance });
    notes.push(`Your disk comes from the repository as it is needed; it was last saved ${when}.`);
  } else {
    const writer = writerOf(wish);
    const disks: DiskBeginning[] = [];
    for (const disk of user)
      disks.push(await beginningOf(disk, { subscription, writer, overlayOf: context.overlayOf(name) }));
    await MachineBackup.create(context.parts(name), { appliance, disks, writer });
  }
  const brought = await context.takeUp(name);
  if (brought !== undefined) await keepDisks(brought, subscription, writerOf(wish).version);
  else throw new CollectiveError('internal', `The data of ${name} are not there after they were brought.`);
  return brought;
}

/** Nothing of it could be saved. Without the repository it runs, so that the person can take out of it what they need. */
function refuseDeleted({ name, state }: MachineBackup, { person }: StartContext): void {
  const deleted = person.profile?.deletedSubscriptions?.find(({ id }) => id === state.subscription);
  if (deleted === undefined) return;
  throw new CollectiveError(
    'not-found',
    `${name} was deleted on ${new Date(deleted.deletedAt * 1000).toLocaleString()}, on another of your devices. Within 30 days (unless the repository’s administrator has set another time) collective restore ${deleted.was?.name ?? name} brings it back; collective delete ${name} removes what is left of it here.`,
  );
}

async function takeLease(backup: MachineBackup, { name, isTakenOver, job }: StartWish): Promise<void> {
  // It may have been taken away while nobody asked.
  if (backup.leases.lease !== null) await backup.leases.beat(job.signal);
  if (backup.leases.lease !== null || backup.state.apart !== null) return;
  try {
    await backup.leases.take(isTakenOver ? 'steal' : 'free', job.signal);
  } catch (error) {
    if (!hasCode(error, 'lease-held')) throw error;
    throw new CollectiveError('lease-held', `${name} ${whereItRuns(error.data)}`, { cause: error, data: error.data });
  }
}

const apart = (backup: MachineBackup): CollectiveError => {
  const { apart: how } = backup.state;
  const who = how === null || how.deviceName === '' ? 'Another device' : `"${how.deviceName}"`;
  return new CollectiveError(
    'apart',
    `${who} went on with ${backup.name} from an older state, and here is something that it does not have.`,
  );
};

/** From what the server says of a lease that another device holds. */
const whereItRuns = (data: CollectiveError['data']): string => {
  const device = typeof data['deviceName'] === 'string' ? `"${data['deviceName']}"` : 'another device';
  const since =
    typeof data['takenAt'] === 'number' ? ` since ${new Date(data['takenAt'] * 1000).toLocaleString()}` : '';
  const unsaved = typeof data['unsavedBytes'] === 'number' ? data['unsavedBytes'] : 0;
  const left =
    unsaved === 0 ? 'everything of it is saved' : `${(unsaved / 1e6).toFixed(1)} MB of its work are not saved yet`;
  return `is in use on ${device}${since}; ${left}.`;
};
