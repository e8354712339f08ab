/**
 * The person's data on this machine while they are logged in: the backup of every machine of theirs, and what the start, the end and the
 * suspending of one mean for it. One for each session; what it has not finished is in the machines' files, and the next one goes on.
 */
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CollectiveError, hasCode, type Digest, type SnapshotReason } from '@collective/shared';
import { BackupRunner } from '../backup/backup-runner.js';
import { personOf, type BackupPerson } from '../backup/backup-person.js';
import type { BackupDisk, DiskBeginning } from '../backup/backup-file.js';
import type { BackupClock, MachineParts } from '../backup/backup-types.js';
import { openPackWork, type PackWork } from '../backup/backup-work.js';
import { BlockdDisks } from '../backup/blockd-disks.js';
import { MachineBackup, type BackupStatus } from '../backup/machine-backup.js';
import { restoreMachine, type RestoreParts } from '../backup/restore.js';
import { SnapshotTrust } from '../backup/snapshot-trust.js';
import { catchUp, drain, prepareStart } from '../backup/switch-state.js';
import { troubleOf } from '../backup/retry-plan.js';
import { namedSubscriptions } from '../backup/profile-subscriptions.js';
import { LineMeter, UploadGate } from '../backup/upload-gate.js';
import { VersionBaseMaps } from '../backup/version-base-maps.js';
import { endVersion, isVersionChange } from '../backup/version-change.js';
import { LocalFileSystem } from '../storage/local-file-system.js';
import type { Home } from '../home.js';
import type { JobContext } from './agent-server.js';
import { unsavedOf, writtenMachines, type BackupSettling, type Unsaved } from './backup-settling.js';
import { beginningOf, noteVersion, writerOf } from './begin-version.js';
import type { DataStatus } from './data-types.js';
import { DemandLook } from './demand-look.js';
import { MachinePresence } from './machine-presence.js';
import type { MachinePort, PlannedDisk } from './machine-port.js';
import { finishMove } from './moved-machine.js';
import type { ObjectCache } from './object-cache.js';
import { clearOpened } from './opened-snapshot.js';
import { planNames, type OwnMachine, type Renaming } from './own-names.js';
import { blockdStatus } from './path-status.js';
import { chooseDiskKey } from './disk-key-ring.js';
import { published } from './machine-spec-plan.js';
import { isAway } from './repository-access.js';
import type { RunnableVersion } from './runnable-version.js';
import type { Session } from './session.js';
import { Subscription } from './subscription.js';
import { TokenCourier } from './token-courier.js';

const SETTLE_TELL_MS = 1_000;
const CLOSE_MS = 5_000;
/** A suspend is answered within a second. */
const PACK_MS = 300;
/** A block daemon that does not answer keeps nobody from suspending: what is not sealed is when it goes on. */
const SEAL_MS = 3_000;
/** Nobody's guest waits for what the backup reads. */
const ATTACHED_WAIT_MS = 300_000;

export type PersonDataOptions = {
  readonly home: Home;
  readonly objects: ObjectCache;
  readonly machines: Pick<MachinePort, 'authorize' | 'addKeys' | 'blockd'>;
  readonly session: Session;
  readonly log: (text: string) => void;
};

export type StartWish = {
  readonly name: string;
  readonly appliance: string;
  readonly version: RunnableVersion;
  readonly isOnline: boolean;
  /** Another device's lease is taken over. */
  readonly isTakenOver: boolean;
  readonly job: JobContext;
};

export class PersonData implements BackupSettling {
  readonly #options: PersonDataOptions;
  readonly #person: BackupPerson;
  readonly #work: PackWork;
  readonly #runner: BackupRunner;
  readonly #presence: MachinePresence;
  readonly #disks = new Map<string, BlockdDisks>();
  readonly #backups = new Map<string, MachineBackup>();
  readonly #starting = new Set<string>();
  readonly #line = new LineMeter();
  readonly #gate: UploadGate;
  readonly #courier: TokenCourier;
  readonly trust: SnapshotTrust;
  #isClosed = false;
  readonly #ended = new AbortController();

  private constructor(options: PersonDataOptions) {
    const { home, session, log } = options;
    this.#options = options;
    this.#person = personOf(session);
    this.#work = openPackWork();
    const demand = new DemandLook(async () => blockdStatus(home));
    this.#gate = new UploadGate({ look: async () => demand.isWaiting() });
    this.#runner = new BackupRunner({
      person: this.#person,
      clock: systemBackupClock,
      onError: (error) => log(String(error)),
    });
    this.#presence = new MachinePresence(home, (name) => this.#isOver(name));
    this.trust = new SnapshotTrust(this.#person);
    this.#courier = new TokenCourier({
      ...options,
      up: () => [...this.#backups.keys()].filter((name) => this.isUp(name)),
    });
  }

  /** Goes on with the backups of all machines of the home. One that cannot be read is told to the log and left alone. */
  static async open(options: PersonDataOptions): Promise<PersonData> {
    const data = new PersonData(options);
    for (const name of await readdir(options.home.machinesDirectory)) {
      try {
        await clearOpened(options.home, name, { served: true, shown: !data.isUp(name) });
        await data.#take(name);
      } catch (error) {
        options.log(`${name}: its backup: ${String(error)}`);
      }
    }
    await data.followNames().catch((error: unknown) => options.log(String(error)));
    return data;
  }

  /** Ends the backups; what is pending stays in its files. */
  async close({ isForGood = false }: { readonly isForGood?: boolean } = {}): Promise<void> {
    this.#ended.abort();
    this.#presence.close();
    // In an outage each of them may wait for the repository. What it is not told at last is told at the next login.
    await within(CLOSE_MS, Promise.all([this.#courier.close(), this.#runner.close()]));
    // Nobody will go on here: another device need not wait for the lease to expire.
    if (isForGood)
      await within(
        CLOSE_MS,
        Promise.allSettled([...this.#backups.values()].map(async ({ leases }) => leases.release())),
      );
    await within(CLOSE_MS, Promise.allSettled([...this.#disks.values()].map(async (disks) => disks.release())));
    // What is still under way would start again what is about to be ended.
    this.#isClosed = true;
    await this.#work.close();
  }

  /** Errors: `not-found` for a machine that has no data of the person here. */
  backup(name: string): MachineBackup {
    const backup = this.#backups.get(name);
    if (backup === undefined) throw new CollectiveError('not-found', `There is no data of ${name} on this machine.`);
    return backup;
  }

  /** Aborts with the session: what is served of the person's data ends then. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  isUp(name: string): boolean {
    return this.#presence.isUp(name);
  }

  isSuspended(name: string): boolean {
    return this.#presence.isSuspended(name);
  }

  /** What a machine of that name runs: another name than the appliance's is an additional subscription. */
  applianceOf(name: string): string {
    const here = this.#backups.get(name)?.state.appliance;
    return here ?? this.#inProfile(name)?.appliance ?? name;
  }

  restoreParts(name: string, signal?: AbortSignal): RestoreParts {
    const { session, objects } = this.#options;
    return {
      person: this.#person,
      trust: this.trust,
      baseMaps: new VersionBaseMaps(session, objects),
      overlayOf: this.#overlayOf(name),
      ...(signal === undefined ? {} : { signal }),
    };
  }

  /**
   * A start: the newest state of the person's disks is here, the lease is this device's, and nothing of ours has the disks; then `start`, with
   * the base over which each disk is attached. What the backup was doing is broken off and goes on afterwards. Errors: those of `start`; `lease-held` (another device runs it), `apart` (the person has to choose),
   * `rollback`, `untrusted`; an outage is none: then what is here is used.
   */
  async start<T>(
    wish: StartWish,
    start: (mine: { readonly bases: ReadonlyMap<string, Digest>; readonly notes: readonly string[] }) => Promise<T>,
  ): Promise<T> {
    const { name, version } = wish;
    const user = version.disks.filter(({ description }) => description.kind === 'user');
    // What an earlier version's disks hold is carried along, also by a version without any.
    if (user.length === 0) await this.#take(name);
    if (user.length === 0 && !this.#backups.has(name)) return start({ bases: new Map(), notes: [] });
    await this.#refuseRunning(name);
    const notes: string[] = [];
    const backup = this.#backups.get(name) ?? (await this.#bring(wish, user, notes));
    try {
      return await this.#runner.aside(name, async () => {
        await this.#prepare(backup, wish, notes);
        this.#starting.add(name);
        await this.#disksOf(name).release();
        return start({ bases: basesOf(backup.state.disks), notes });
      });
    } finally {
      this.started(name);
    }
  }

  /** Before anything is noted of the version that is to be started: the one that runs writes the disks. Errors: `in-use`. */
  async #refuseRunning(name: string): Promise<void> {
    const { machines, session } = this.#options;
    // The supervisor clears away what a power cut has left.
    if (this.isUp(name)) await machines.blockd(async () => session.blocks());
    if (this.isUp(name))
      throw new CollectiveError('in-use', `${name} is running already.`, { data: { appliance: name } });
  }

  async #prepare(backup: MachineBackup, wish: StartWish, notes: string[]): Promise<void> {
    const { name, isOnline, job } = wish;
    // First: what is locked since a reset is neither saved nor brought up to date.
    const subscription = await Subscription.open(this.#options.home.machinesDirectory, name);
    chooseDiskKey(this.#options.session.diskKeys, await subscription.keyChecks(), `a disk of ${name}`);
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
      this.#refuseDeleted(backup);
      try {
        const said = await catchUp(backup, this.restoreParts(name, job.signal));
        if (said === 'apart') throw apart(backup);
        if (said === 'caught-up')
          notes.push(`Your disk is as ${backup.state.head?.deviceName ?? 'another device'} left it.`);
        await this.#lease(backup, wish);
        // What the other device saved before it was taken away.
        if (wish.isTakenOver && (await catchUp(backup, this.restoreParts(name, job.signal))) === 'apart')
          throw apart(backup);
        // What the version before wrote is saved and pinned ahead of the start; in an outage that is done later.
        if ((await endVersionBefore()) && (await drain(backup, job.signal)) === 'apart') throw apart(backup);
      } catch (error) {
        // A repository whose disk is full keeps nobody from their machine, as one that is away.
        if (!isAway(error) && troubleOf(error) !== 'repository-full') throw error;
        notes.push(`Your disk is as it was here: ${String(error)}`);
      }
    }
    if (backup.state.apart !== null) throw apart(backup);
    await prepare();
    await endVersionBefore();
    await noteVersion(backup, { ...wish, subscription });
  }

  /** Nothing of it could be saved. Without the repository it runs, so that the person can take out of it what they need. */
  #refuseDeleted({ name, state }: MachineBackup): void {
    const deleted = this.#person.profile?.deletedSubscriptions?.find(({ id }) => id === state.subscription);
    if (deleted === undefined) return;
    throw new CollectiveError(
      'not-found',
      `${name} was deleted on ${new Date(deleted.deletedAt * 1000).toLocaleString()}, on another of your devices. Within 30 days collective restore ${deleted.was?.name ?? name} brings it back; collective delete ${name} removes what is left of it here.`,
    );
  }

  /** The machine runs, or could not be started. */
  started(name: string): void {
    this.#starting.delete(name);
    if (!this.#backups.has(name)) return;
    this.#presence.watch(name);
    // The first one creates the subscription, or adds a disk to it: nothing is uploaded for what the disk began as.
    const backup = this.backup(name);
    const { head, disks } = backup.state;
    const isNew = head === null || disks.some(({ isAttached, committed }) => isAttached && committed === null);
    if (isNew && this.isUp(name)) void this.#seal(name, 'start');
    else backup.kick();
  }

  /**
   * What was written so far is sealed, and packed when that is quick: while it is suspended its layers stay as they are. Never fails: what
   * could not be done is done when it goes on.
   */
  async beforeSuspend(name: string): Promise<void> {
    const backup = this.#backups.get(name);
    if (backup === undefined || !this.isUp(name)) return;
    await within(SEAL_MS, this.#seal(name, 'suspend'));
    const giveUpAt = performance.now() + PACK_MS;
    while (backup.state.pending?.kind === 'sealed' && performance.now() < giveUpAt) await delay(20);
  }

  /** A snapshot that is asked for. Without `wait` it is only sealed, durably. */
  async snapshot(
    name: string,
    reason: SnapshotReason,
    options: { readonly wait: boolean; readonly signal: AbortSignal },
  ) {
    this.backup(name);
    return this.#runner.snapshot(name, reason, options);
  }

  async status(): Promise<ReadonlyMap<string, DataStatus>> {
    const all = [...this.#backups].map(async ([name, backup]) => {
      // One machine whose disks cannot be read hides no other one.
      const status = await backup.status().then(dataStatus, (error: unknown) => unreadable(backup, error));
      return [name, status] as const;
    });
    return new Map(await Promise.all(all));
  }

  /** Nothing else of a stopped machine's backup goes on meanwhile. */
  async aside<T>(name: string, work: () => Promise<T>): Promise<T> {
    return this.#runner.aside(name, work);
  }

  /** The network, or the login, is back. */
  networkBack(): void {
    this.#runner.networkBack();
  }

  /** Its subscription is deleted, or it gets another name: nothing of ours has it afterwards. */
  async letGo(name: string): Promise<void> {
    await this.#runner.remove(name);
    this.#backups.delete(name);
    this.#presence.forget(name);
    await this.#disks.get(name)?.release();
    this.#disks.delete(name);
  }

  /** Takes up what is in the machine's files. Its name: another one when it was to move there. */
  async takeUp(name: string): Promise<string> {
    return this.#take(name);
  }

  /** Machines at rest take the names under which all devices of the person know them. Gives those that did. */
  async followNames(): Promise<readonly Renaming[]> {
    const { home } = this.#options;
    const done: Renaming[] = [];
    for (const { from, to } of planNames(this.#person.profile, this.#ownMachines())) {
      const isAtRest = !this.isUp(from) && !this.isSuspended(from) && !this.#starting.has(from);
      const { movesTo } = this.backup(from).state;
      // It may be about to move, too, or be one that the profile does not have yet: then the next time.
      if (!isAtRest || (movesTo === undefined && existsSync(join(home.machinesDirectory, to)))) continue;
      if (movesTo === undefined) await this.backup(from).moveTo(to);
      await this.letGo(from);
      done.push({ from, to: await this.takeUp(from) });
    }
    return done;
  }

  /** The name under which a subscription is on this machine; undefined: it is not. */
  nameHere(subscription: string): string | undefined {
    return this.#ownMachines().find((each) => each.subscription === subscription)?.name;
  }

  #ownMachines(): OwnMachine[] {
    return [...this.#backups].map(([name, { state }]) => {
      const { subscription, movesTo } = state;
      return { name, subscription, ...(movesTo === undefined ? {} : { movesTo }) };
    });
  }

  async settle({ signal, onProgress }: Parameters<BackupSettling['settle']>[0]): Promise<Unsaved> {
    const backups = await this.#runner.status();
    for (const { machine } of backups)
      if (!this.isUp(machine) && !this.isSuspended(machine))
        await this.#runner.stopped(machine, { wait: false }).catch(() => undefined);
    const timer = setInterval(() => void this.#unsaved().then(onProgress, () => undefined), SETTLE_TELL_MS);
    try {
      await Promise.all(
        backups.map(async ({ machine }) => {
          if (!this.isSuspended(machine))
            await this.backup(machine)
              .settled(signal)
              .catch(() => undefined);
        }),
      );
    } finally {
      clearInterval(timer);
    }
    return this.#unsaved();
  }

  async #unsaved(): Promise<Unsaved> {
    const machines = (await this.#runner.status())
      .map(({ machine, unsavedBytes, pending }) => ({
        name: machine,
        // What is sealed and holds nothing (trims) is still not there; nor is a choice (apart) of which nothing is sealed yet.
        unsavedBytes:
          (pending === null || pending.reason === 'start') && this.#backups.get(machine)?.state.mustCommit !== true
            ? unsavedBytes
            : Math.max(1, unsavedBytes),
      }))
      .filter(({ unsavedBytes }) => unsavedBytes > 0);
    // What nobody backs up (a machine of before the backup, or whose backup.json cannot be read) is only here.
    const isSaved = (name: string, disk: string): boolean =>
      this.#backups.get(name)?.state.disks.some((each) => each.name === disk) === true;
    const others = await writtenMachines(this.#options.home, (name, disk) => !isSaved(name, disk));
    return unsavedOf([...machines, ...others]);
  }

  /** The name that it has now. */
  async #take(found: string): Promise<string> {
    const { home } = this.#options;
    if (!existsSync(join(home.machinesDirectory, found, 'backup.json')) || this.#backups.has(found)) return found;
    const name = await finishMove(home.machinesDirectory, found, {
      release: async () => this.#disksOf(found).release(),
    });
    if (name !== found) this.#disks.delete(found);
    const backup = await MachineBackup.open(this.#parts(name));
    if (backup === undefined) return name;
    this.#backups.set(name, backup);
    this.#runner.add(backup);
    this.#presence.watch(name);
    return name;
  }

  #parts(name: string): MachineParts {
    const { home, log } = this.#options;
    return {
      name,
      folder: join(home.machinesDirectory, name),
      overlayOf: this.#overlayOf(name),
      person: this.#person,
      disks: this.#disksOf(name),
      work: this.#work,
      gate: this.#gate,
      line: this.#line,
      // A suspended one has not been given up: its lease and its layers stay.
      isRunning: () => this.isUp(name) || this.isSuspended(name),
      clock: systemBackupClock,
      onEvent: (event) => {
        if (event.event === 'trouble' || event.event === 'apart') log(`backup: ${JSON.stringify(event)}`);
      },
    };
  }

  #overlayOf(name: string): (disk: string) => string {
    return (disk) => join(this.#options.home.machinesDirectory, name, 'overlays', disk);
  }

  #disksOf(name: string): BlockdDisks {
    const known = this.#disks.get(name);
    if (known !== undefined) return known;
    const { home, session, machines } = this.#options;
    const disks = new BlockdDisks({
      name,
      control: async () => {
        if (this.#isClosed) throw new CollectiveError('shutting-down', 'The session has ended.');
        return machines.blockd(async () => session.blocks());
      },
      session: (disk) => this.#sessionOf(name, disk),
      attachment: async (disk) => this.#attachment(name, disk),
      overlayOf: this.#overlayOf(name),
      runDirectory: home.runDirectory,
      blockKeys: () => session.blockKeys,
      fileSystem: new LocalFileSystem(),
      isBlockdThere: () => existsSync(home.blockdSocket),
    });
    this.#disks.set(name, disks);
    return disks;
  }

  /** Who has the disk; undefined: nobody, or the version that runs does not have it. Errors: `suspended`, `in-use` while it is being started: it is tried again afterwards. */
  #sessionOf(name: string, disk: string): string | undefined {
    if (this.isUp(name)) {
      const known = this.#backups.get(name)?.state.disks.find((each) => each.name === disk);
      return known?.isAttached === false ? undefined : name;
    }
    if (this.isSuspended(name)) throw new CollectiveError('suspended', `${name} is suspended.`);
    if (this.#starting.has(name)) throw new CollectiveError('in-use', `${name} is being started.`);
    return undefined;
  }

  /** How a disk of a machine that does not run is attached. */
  async #attachment(name: string, disk: string): Promise<object> {
    const { home, session } = this.#options;
    const subscription = await Subscription.open(home.machinesDirectory, name);
    const base = this.backup(name).state.disks.find((each) => each.name === disk)?.committed?.base;
    const path = subscription.overlayPath(disk);
    const kept = subscription.kept(disk);
    const key = chooseDiskKey(session.diskKeys, await subscription.keyChecks(), `a disk of ${name}`);
    const source =
      base !== undefined
        ? { kind: 'snapshot', folder: path, base }
        : kept === undefined || kept.root === null
          ? { kind: 'zero', diskBytes: kept?.diskBytes ?? 0 }
          : published({ name: this.applianceOf(name), version: kept.version }, kept, subscription.mapPath(kept.root));
    const overlay = { path, mode: 'persistent', key };
    return { source, overlay, diskKey: key, blockKeys: session.blockKeys, waitMs: ATTACHED_WAIT_MS };
  }

  /** A machine that is not here yet: what another device saved of it, or the beginning. */
  async #bring(wish: StartWish, user: readonly PlannedDisk[], notes: string[]): Promise<MachineBackup> {
    const { name, appliance, isOnline, job } = wish;
    const { home } = this.#options;
    const folder = join(home.machinesDirectory, name);
    // One that could not be read at the login is read again, or is the error: never begun anew over what is there.
    await this.#take(name);
    const taken = this.#backups.get(name);
    if (taken !== undefined) return taken;
    const known = this.#inProfile(name);
    const here = known === undefined ? undefined : this.nameHere(known.id);
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
      await restoreMachine(this.restoreParts(name, job.signal), { folder, subscription: known.id, appliance });
      notes.push(`Your disk comes from the repository as it is needed; it was last saved ${when}.`);
    } else {
      const writer = writerOf(wish);
      const disks: DiskBeginning[] = [];
      for (const disk of user)
        disks.push(await beginningOf(disk, { subscription, writer, overlayOf: this.#overlayOf(name) }));
      await MachineBackup.create(this.#parts(name), { appliance, disks, writer });
    }
    await this.#take(name);
    return this.backup(name);
  }

  async #lease(backup: MachineBackup, { name, isTakenOver, job }: StartWish): Promise<void> {
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

  #inProfile(name: string) {
    // By its name alone: an additional subscription under the appliance's name, too, would be two machines with one subscription.
    const { profile } = this.#person;
    return profile === undefined ? undefined : namedSubscriptions(profile).find((each) => each.name === name);
  }

  #isOver(name: string): void {
    if (this.isSuspended(name) || this.#runner.get(name) === undefined) return; // undefined: it is just being started again
    void clearOpened(this.#options.home, name, { shown: true, served: false }).catch((error: unknown) =>
      this.#options.log(`${name}: ${String(error)}`),
    );
    void this.#runner
      .stopped(name, { wait: false })
      .catch((error: unknown) => this.#options.log(`${name}: ${String(error)}`));
  }

  async #seal(name: string, reason: SnapshotReason): Promise<void> {
    await this.backup(name)
      .seal(reason)
      .catch((error: unknown) => this.#options.log(`${name}: ${String(error)}`));
  }
}

const within = async (ms: number, work: Promise<unknown>): Promise<void> => {
  const over = new AbortController();
  await Promise.race([work, delay(ms, undefined, { signal: over.signal }).catch(() => undefined)]);
  over.abort();
};

const basesOf = (disks: readonly BackupDisk[]): ReadonlyMap<string, Digest> =>
  new Map(disks.flatMap(({ name, committed }) => (committed === null ? [] : [[name, committed.base] as const])));

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

/** How much of it is unsaved nobody can tell: `why` says so. */
const unreadable = ({ state: { head } }: MachineBackup, error: unknown): DataStatus => ({
  savedAt: head?.committedAt ?? null,
  savedBy: head?.deviceName ?? null,
  unsavedBytes: 0,
  activity: 'waiting',
  why: `what is here cannot be read: ${error instanceof Error ? error.message : String(error)}`,
});

const dataStatus = ({ saved, unsavedBytes, activity, trouble, apart: how }: BackupStatus): DataStatus => {
  const why = how !== null ? `"${how.deviceName}" went on` : trouble?.message;
  return {
    savedAt: saved?.at ?? null,
    savedBy: saved?.deviceName ?? null,
    unsavedBytes,
    activity: activity === 'idle' || activity === 'apart' || activity === 'waiting' ? activity : 'saving',
    ...(why === undefined ? {} : { why }),
  };
};

const systemBackupClock: BackupClock = {
  nowSeconds: () => Math.floor(Date.now() / 1000),
  nowMs: () => performance.now(),
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(signal.reason as Error);
      };
      const timer = setTimeout(() => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      }, ms);
      timer.unref();
      signal.addEventListener('abort', onAbort, { once: true });
    }),
};
