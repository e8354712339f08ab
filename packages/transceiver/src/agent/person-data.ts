/**
 * The person's data on this machine while they are logged in: the backup of every machine of theirs, and what the start, the end and the
 * suspending of one mean for it. One for each session; what it has not finished is in the machines' files, and the next one goes on. A little over 400
 * lines: what each step does is elsewhere, here they are put together.
 */
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CollectiveError, type Digest, type SnapshotReason } from '@collective/shared';
import type { BackupDisk } from '../backup/backup-file.js';
import { personOf, type BackupPerson } from '../backup/backup-person.js';
import { BackupRunner } from '../backup/backup-runner.js';
import type { MachineParts } from '../backup/backup-types.js';
import { openPackWork, type PackWork } from '../backup/backup-work.js';
import { MachineBackup } from '../backup/machine-backup.js';
import { namedSubscriptions } from '../backup/profile-subscriptions.js';
import type { RestoreParts } from '../backup/restore.js';
import { SnapshotTrust } from '../backup/snapshot-trust.js';
import { systemBackupClock } from '../backup/system-clock.js';
import { LineMeter, UploadGate } from '../backup/upload-gate.js';
import { VersionBaseMaps } from '../backup/version-base-maps.js';
import type { Home } from '../home.js';
import type { BackupSettling, Unsaved } from './backup-settling.js';
import { BootTraces } from './boot-traces.js';
import { statusOf } from './data-status.js';
import type { DataStatus } from './data-types.js';
import { DemandLook } from './demand-look.js';
import { followNames } from './follow-names.js';
import type { MachinePort } from './machine-port.js';
import { MachinePresence } from './machine-presence.js';
import { finishMove } from './moved-machine.js';
import type { ObjectCache } from './object-cache.js';
import { clearOpened } from './opened-snapshot.js';
import type { OwnMachine, Renaming } from './own-names.js';
import { blockdStatus } from './path-status.js';
import { MeteredLink } from './metered-link.js';
import { PersonDisks } from './person-disks.js';
import { Prefetcher } from './prefetcher.js';
import { privateTracesOf } from './private-traces.js';
import { bringData, mayBringData, prepareData, type StartContext, type StartWish } from './prepare-data.js';
import type { Session } from './session.js';
import { settleBackups } from './settle-backups.js';
import { TokenCourier } from './token-courier.js';

const CLOSE_MS = 5_000;
/** A suspend is answered within a second. */
const PACK_MS = 300;
/** A block daemon that does not answer keeps nobody from suspending: what is not sealed is when it goes on. */
const SEAL_MS = 3_000;

export type PersonDataOptions = {
  readonly home: Home;
  readonly objects: ObjectCache;
  readonly machines: Pick<MachinePort, 'authorize' | 'addKeys' | 'blockd'>;
  readonly session: Session;
  readonly log: (text: string) => void;
};

export class PersonData implements BackupSettling {
  readonly #options: PersonDataOptions;
  readonly #person: BackupPerson;
  readonly #work: PackWork;
  readonly #runner: BackupRunner;
  readonly #presence: MachinePresence;
  readonly #disks: PersonDisks;
  readonly #backups = new Map<string, MachineBackup>();
  readonly #line = new LineMeter();
  readonly #gate: UploadGate;
  readonly #courier: TokenCourier;
  readonly trust: SnapshotTrust;
  readonly traces: BootTraces;
  readonly prefetcher: Prefetcher;
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
    // Whichever request finds it back: a heartbeat, another machine's upload, a look for a new version.
    session.client.onBack(() => {
      this.#runner.networkBack();
      this.prefetcher.wake();
    });
    this.#presence = new MachinePresence(home, (name) => this.#isOver(name));
    this.#disks = new PersonDisks({
      ...options,
      presence: this.#presence,
      stateOf: (name) => this.#backups.get(name)?.state,
      applianceOf: (name) => this.applianceOf(name),
    });
    this.trust = new SnapshotTrust(this.#person);
    const link = new MeteredLink(home.settingsFile);
    this.traces = new BootTraces({
      ...options,
      isMetered: async () => link.isMetered(),
      client: session.client,
      applianceOf: (name) => this.applianceOf(name),
    });
    this.prefetcher = new Prefetcher({
      ...options,
      traces: this.traces,
      blockd: async () => options.machines.blockd(async () => session.blocks()),
      applianceOf: (name) => this.applianceOf(name),
      isMetered: async () => link.isMetered(),
    });
    this.#courier = new TokenCourier({
      ...options,
      up: () => [...this.#backups.keys()].filter((name) => this.isUp(name)),
      isMetered: async () => link.isMetered(),
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
    await within(
      CLOSE_MS,
      Promise.all([this.#courier.close(), this.#runner.close(), this.prefetcher.close(), this.traces.close()]),
    );
    // Nobody will go on here: another device need not wait for the lease to expire.
    if (isForGood)
      await within(
        CLOSE_MS,
        Promise.allSettled([...this.#backups.values()].map(async ({ leases }) => leases.release())),
      );
    await within(CLOSE_MS, this.#disks.releaseAll());
    this.#disks.end();
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
      overlayOf: this.#disks.overlayOf(name),
      traces: privateTracesOf(name, this.#options),
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
    const context = this.#startContext();
    if (user.length === 0 && !this.#backups.has(name) && !(await mayBringData(wish, context)))
      return start({ bases: new Map(), notes: context.notes });
    await this.#refuseRunning(name);
    const backup = this.#backups.get(name) ?? (await bringData(wish, user, context));
    try {
      return await this.#runner.aside(name, async () => {
        await prepareData(backup, wish, context);
        await this.#disks.giveTo(name);
        return start({ bases: basesOf(backup.state.disks), notes: context.notes });
      });
    } finally {
      this.started(name);
    }
  }

  /** How many disks of the person's are here of a machine: a start touches each, whatever its version has. */
  diskCount(name: string): number {
    return this.#backups.get(name)?.state.disks.length ?? 0;
  }

  #startContext(): StartContext {
    const { home, session } = this.#options;
    return {
      ...{ home, session, person: this.#person, notes: [] },
      restoreParts: (name, signal) => this.restoreParts(name, signal),
      parts: (name) => this.#parts(name),
      overlayOf: (name) => this.#disks.overlayOf(name),
      takeUp: async (name) => this.#backups.get(await this.#take(name)),
      inProfile: (name) => this.#inProfile(name),
      nameHere: (subscription) => this.nameHere(subscription),
    };
  }

  /** Before anything is noted of the version that is to be started: the one that runs writes the disks. Errors: `in-use`. */
  async #refuseRunning(name: string): Promise<void> {
    const { machines, session } = this.#options;
    // The supervisor clears away what a power cut has left.
    if (this.isUp(name)) await machines.blockd(async () => session.blocks());
    if (this.isUp(name))
      throw new CollectiveError('in-use', `${name} is running already.`, { data: { appliance: name } });
  }

  /** The machine runs, or could not be started. */
  started(name: string): void {
    this.#disks.started(name);
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
    const all = [...this.#backups].map(async ([name, backup]) => [name, await statusOf(backup)] as const);
    return new Map(await Promise.all(all));
  }

  /** Nothing else of a stopped machine's backup goes on meanwhile. */
  async aside<T>(name: string, work: () => Promise<T>): Promise<T> {
    return this.#runner.aside(name, work);
  }

  /** Its subscription is deleted, or it gets another name: nothing of ours has it afterwards. */
  async letGo(name: string): Promise<void> {
    await this.#runner.remove(name);
    this.#backups.delete(name);
    this.#presence.forget(name);
    await this.#disks.forget(name);
  }

  /** Takes up what is in the machine's files. Its name: another one when it was to move there. */
  async takeUp(name: string): Promise<string> {
    return this.#take(name);
  }

  /** Machines at rest take the names under which all devices of the person know them. Gives those that did. */
  async followNames(): Promise<readonly Renaming[]> {
    return followNames({
      ...{ home: this.#options.home, profile: this.#person.profile, own: () => this.#ownMachines() },
      isAtRest: (name) => !this.isUp(name) && !this.isSuspended(name) && !this.#disks.isStarting(name),
      moveTo: async (from, to) => this.backup(from).moveTo(to),
      move: async (from) => {
        await this.letGo(from);
        return this.takeUp(from);
      },
    });
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

  async settle(options: Parameters<BackupSettling['settle']>[0]): Promise<Unsaved> {
    const parts = { home: this.#options.home, runner: this.#runner, presence: this.#presence, backups: this.#backups };
    return settleBackups(parts, options);
  }

  /** The name that it has now. */
  async #take(found: string): Promise<string> {
    const { home } = this.#options;
    if (!existsSync(join(home.machinesDirectory, found, 'backup.json')) || this.#backups.has(found)) return found;
    const name = await finishMove(home.machinesDirectory, found, {
      release: async () => this.#disks.of(found).release(),
    });
    if (name !== found) await this.#disks.forget(found);
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
      overlayOf: this.#disks.overlayOf(name),
      person: this.#person,
      disks: this.#disks.of(name),
      traces: privateTracesOf(name, this.#options),
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
