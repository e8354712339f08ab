/**
 * The backups of all machines of one session: their loops, periodic snapshots, heartbeats, and the heads in the person's
 * profile, which are written at most every ten minutes, and at once when a subscription is new, a machine stops or the person logs out.
 */
import { CollectiveError, type Profile, type SnapshotReason } from '@collective/shared';
import type { BackupPerson } from './backup-person.js';
import type { BackupClock, SettledAs } from './backup-types.js';
import type { BackupStatus } from './backup-status.js';
import type { MachineBackup } from './machine-backup.js';
import { isUnlisted, withHead } from './profile-subscriptions.js';

export const PROFILE_EVERY_MS = 600_000;

type Running = {
  readonly backup: MachineBackup;
  readonly abort: AbortController;
  readonly ended: Promise<unknown>;
};

export class BackupRunner {
  readonly #person: BackupPerson;
  readonly #clock: BackupClock;
  readonly #onError: (error: unknown) => void;
  readonly #machines = new Map<string, Running>();
  #profileAtMs: number | undefined;
  #profile: Promise<void> = Promise.resolve();

  constructor(options: {
    readonly person: BackupPerson;
    readonly clock: BackupClock;
    /** What happens beside the snapshots and mends itself: a profile that cannot be written now. */
    readonly onError?: (error: unknown) => void;
  }) {
    this.#person = options.person;
    this.#clock = options.clock;
    this.#onError = options.onError ?? (() => undefined);
  }

  /** Goes on with what a machine's backup.json says, from now on. Errors: `exists`. */
  add(backup: MachineBackup): void {
    if (this.#machines.has(backup.name)) throw new CollectiveError('exists', `${backup.name} is backed up already.`);
    const abort = new AbortController();
    const { signal } = abort;
    backup.onSaved(() => void this.#saveHeadsInTime());
    const ended = Promise.allSettled([
      backup.run(signal),
      backup.leases.run(signal),
      this.#periodic(backup, signal),
      this.#leftovers(backup),
    ]);
    this.#machines.set(backup.name, { backup, abort, ended });
  }

  get(name: string): MachineBackup | undefined {
    return this.#machines.get(name)?.backup;
  }

  /**
   * A snapshot now. Resolves when it is saved, whatever is asked for meanwhile, or cannot be for now; without `wait` as soon as it is sealed: from then on it
   * is kept here. Errors: `not-found`, those of the seal.
   */
  async snapshot(
    name: string,
    reason: SnapshotReason,
    options: { readonly wait?: boolean; readonly signal?: AbortSignal } = {},
  ): Promise<SettledAs | 'sealed'> {
    const { backup } = this.#running(name);
    if (options.wait !== true) {
      await backup.seal(reason);
      return 'sealed';
    }
    const settled = await backup.save(reason, options.signal ?? new AbortController().signal);
    if (settled === 'saved') await this.saveHeads();
    return settled;
  }

  /**
   * A machine has stopped: the last snapshot, and the lease is given back when everything is saved, so that another device
   * can begin at once. Resolves as `snapshot` does; the person may leave (`signal`), it goes on.
   */
  async stopped(
    name: string,
    options: { readonly wait: boolean; readonly signal?: AbortSignal },
  ): Promise<SettledAs | 'sealed'> {
    const { backup } = this.#running(name);
    await backup.seal('stop');
    const finish = async (signal: AbortSignal): Promise<SettledAs> => {
      const settled = await backup.settled(signal);
      // The loop gives the lease back, and lets go of the disks.
      if (settled === 'saved') await this.saveHeads();
      return settled;
    };
    if (options.wait) return finish(options.signal ?? new AbortController().signal);
    void finish(this.#running(name).abort.signal).catch(() => undefined);
    return 'sealed';
  }

  /**
   * `work` (a start, an undo, what another device saved) while nothing else of the backup touches the machine: what was
   * under way is broken off, and goes on afterwards; its disks are let go of.
   */
  async aside<T>(name: string, work: () => Promise<T>): Promise<T> {
    const backup = this.#machines.get(name)?.backup;
    if (backup === undefined) return work();
    await this.remove(name);
    try {
      await backup.parts.disks.release();
      return await work();
    } finally {
      this.add(backup);
    }
  }

  /** Whatever waits is tried now. */
  networkBack(): void {
    for (const { backup } of this.#machines.values()) backup.kick();
  }

  async status(): Promise<BackupStatus[]> {
    return Promise.all([...this.#machines.values()].map(async ({ backup }) => backup.status()));
  }

  /** Ends the loops of one machine; what is pending stays in its file. */
  async remove(name: string): Promise<void> {
    const running = this.#machines.get(name);
    if (running === undefined) return;
    this.#machines.delete(name);
    running.abort.abort();
    await running.ended;
  }

  /** At logout, and at the end of the agent. */
  async close(): Promise<void> {
    // First: whoever does not wait for the repository to be told must not have loops that go on.
    const running = [...this.#machines.values()];
    for (const { abort } of running) abort.abort();
    await Promise.all(running.map(async ({ ended }) => ended));
    await this.saveHeads();
    this.#machines.clear();
  }

  /** Writes the heads that the profile does not have. Resolves also when the repository is away: it is done later. */
  async saveHeads(): Promise<void> {
    const saving = this.#profile.then(async () => {
      const backups = [...this.#machines.values()].map(({ backup }) => backup);
      const wanted = (profile: Profile): Profile => backups.reduce(withHead, profile);
      const { profile } = this.#person;
      this.#profileAtMs = this.#clock.nowMs();
      if (profile !== undefined && wanted(profile) === profile) return;
      await this.#person.updateProfile(wanted).catch(this.#onError);
    });
    this.#profile = saving;
    await saving;
  }

  async #saveHeadsInTime(): Promise<void> {
    const isTime = this.#profileAtMs === undefined || this.#clock.nowMs() - this.#profileAtMs >= PROFILE_EVERY_MS;
    const { profile } = this.#person;
    const isNew = profile !== undefined && [...this.#machines.values()].some((one) => isUnlisted(profile, one.backup));
    if (isTime || isNew) await this.saveHeads();
  }

  async #periodic(backup: MachineBackup, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await backup.period.pass(signal);
      if (signal.aborted || !backup.parts.isRunning()) continue;
      // Nothing was written since: no seal, no snapshot.
      if (!(await backup.hasWritten().catch(() => true))) continue;
      await backup.seal('periodic').catch(this.#onError);
    }
  }

  /** After a kill: what no seal covers of a machine that does not run any more. */
  async #leftovers(backup: MachineBackup): Promise<void> {
    try {
      if (!backup.parts.isRunning() && (await backup.hasLeftovers())) await backup.seal('stop');
    } catch (error) {
      this.#onError(error);
    }
  }

  #running(name: string): Running {
    const running = this.#machines.get(name);
    if (running === undefined) throw new CollectiveError('not-found', `${name} is not backed up.`);
    return running;
  }
}
