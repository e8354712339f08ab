/** The agent's calls about a person's data (data-types.ts), over PersonData and the machine port. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CollectiveError, hasCode } from '@collective/shared';
import { backupFileName } from '../backup/backup-file.js';
import { continueHere, continueWithout, keepBoth } from '../backup/continue.js';
import { freeName, withBroughtBack, withDeleted } from '../backup/profile-subscriptions.js';
import { undo, type Undone } from '../backup/switch-state.js';
import type { Home } from '../home.js';
import { keepDisks } from './begin-version.js';
import type { DataCalls } from './data-routes.js';
import type { JobContext } from './agent-server.js';
import type {
  ContinueReply,
  ContinueRequest,
  DeleteRequest,
  EveryRequest,
  OpenSnapshotRequest,
  ResetRequest,
  RestoreReply,
  RestoreRequest,
  RestoreSnapshotRequest,
  ShowSnapshotRequest,
  SnapshotsReply,
  TakeSnapshotReply,
  TakeSnapshotRequest,
  UndoReply,
  UndoRequest,
} from './data-types.js';
import type { MachinePort } from './machine-port.js';
import { isMaintenance } from './maintenance.js';
import { closeShown, openedSnapshot } from './opened-snapshot.js';
import { refuseRenamed } from './own-names.js';
import type { PersonData } from './person-data.js';
import type { Session } from './session.js';
import { readSettings, writeSettings, type Settings } from './settings-file.js';
import { snapshotRows } from './snapshot-rows.js';
import { Subscription } from './subscription.js';

export type DataDeskOptions = {
  readonly home: Home;
  readonly machines: MachinePort;
  /** Runs `work` after what the agent is doing and before what it does next. Errors: `not-logged-in`. */
  readonly inTurn: <T>(work: (session: Session, data: PersonData) => Promise<T>) => Promise<T>;
  /** Beside the turns, for what takes long. Errors: `not-logged-in`. */
  readonly beside: <T>(work: (session: Session, data: PersonData) => Promise<T>) => Promise<T>;
  /** They are others now. */
  readonly onSettings: () => void;
};

export class DataDesk implements DataCalls {
  readonly #options: DataDeskOptions;

  constructor(options: DataDeskOptions) {
    this.#options = options;
  }

  async snapshots(name: string, which: 'kept' | 'deleted'): Promise<SnapshotsReply> {
    return this.#options.beside(async (session, data) => {
      const { subscription } = data.backup(name).state;
      const rows = await session.client.call('snapshots', { params: { subscription }, query: { which } });
      return { name, snapshots: snapshotRows(rows, which) };
    });
  }

  async takeSnapshot({ name, wait }: TakeSnapshotRequest, job: JobContext): Promise<TakeSnapshotReply> {
    return this.#options.beside(async (session, data) => {
      const backup = data.backup(name);
      if (data.isSuspended(name)) throw new CollectiveError('suspended', `${name} is suspended.`);
      const before = backup.state.head?.number ?? 0;
      // What the guest's programs have written and its system has not: asked of a guest that has an agent.
      if (data.isUp(name)) await this.#options.machines.sync(name);
      job.emit({ event: 'progress', step: 'save', text: `Saving ${name}` });
      const settled = await data.snapshot(name, 'request', { wait, signal: job.signal });
      if (settled !== 'sealed' && settled !== 'saved') throw notSaved(name, settled);
      const { head, subscription } = backup.state;
      if (head === null || head.number <= before) return { name, number: null, sentBytes: 0 };
      const rows = await session.client.call('snapshots', { params: { subscription }, query: { which: 'kept' } });
      const sent = rows.filter(({ number }) => number > before).reduce((sum, { addedBytes }) => sum + addedBytes, 0);
      return { name, number: head.number, sentBytes: sent };
    });
  }

  async openSnapshot(request: OpenSnapshotRequest, job: JobContext): Promise<unknown> {
    return this.#options.beside(async (session, data) => {
      const signal = AbortSignal.any([job.signal, data.ended]);
      await using opened = await openedSnapshot(request, { ...this.#options, session, data, signal });
      await this.#options.machines.exportSource(
        {
          source: opened.source,
          disk: opened.disk,
          diskKeys: session.diskKeys,
          blockKeys: session.blockKeys,
          blocks: await session.blocks(),
          socketPath: request.socket,
        },
        {
          signal,
          onServing: () =>
            job.emit({
              event: 'progress',
              step: 'serving',
              text: `Serving disk ${opened.disk} of snapshot ${String(request.snapshot)} at ${request.socket}.`,
            }),
        },
      );
      return {};
    });
  }

  async showSnapshot({ name, snapshot, disk, close }: ShowSnapshotRequest): Promise<void> {
    await this.#options.beside(async (session, data) => {
      const shown = `snapshot-${String(snapshot)}`;
      if (!data.isUp(name)) throw new CollectiveError('not-found', `${name} is not running.`);
      if (close === true) {
        await this.#options.machines.hide(name, shown);
        await closeShown(this.#options.home, name, snapshot);
        return;
      }
      const opened = await openedSnapshot({ name, snapshot, disk }, { ...this.#options, session, data, isKept: true });
      await this.#options.machines.show(name, { disk: shown, source: opened.source });
    });
  }

  async restoreSnapshot({ name, snapshot }: RestoreSnapshotRequest): Promise<void> {
    await this.#options.beside(async (session, data) => {
      const { subscription } = data.backup(name).state;
      await session.client.call('restoreSnapshot', { params: { subscription, number: snapshot } });
    });
  }

  async setPeriod({ name, seconds }: EveryRequest): Promise<void> {
    await this.#options.beside(async (_session, data) => data.backup(name).period.set(seconds));
  }

  async undo({ name, snapshot }: UndoRequest, job: JobContext): Promise<UndoReply> {
    return this.#options.inTurn(async (_session, data) => {
      refuseRenamed(await data.followNames(), [name]);
      const backup = data.backup(name);
      assertAtRest(data, name);
      const { subscription } = backup.state;
      job.emit({ event: 'progress', step: 'undo', text: `Bringing snapshot ${String(snapshot)} of ${name} back` });
      const { manifest } = await data.trust.fetch({ subscription, number: snapshot }, job.signal);
      const { number, before, unfinished } = await data.aside(name, async () =>
        undo(backup, data.restoreParts(name, job.signal), snapshot),
      );
      const left = unfinished === null ? {} : { unfinished: saidOfUnfinished(unfinished, { name, before }) };
      return { name, number, snapshot, before, writtenBy: manifest.writtenBy.version, ...left };
    });
  }

  /** The person's own disk stays; what every start makes anew, or was only here, goes. */
  async reset({ name }: ResetRequest): Promise<void> {
    await this.#options.inTurn(async (_session, data) => {
      if (data.isUp(name)) throw new CollectiveError('in-use', `${name} is running: stop it first.`);
      // Its system overlay is what the administrator has done and not published.
      if (await isMaintenance(this.#options.home.machinesDirectory, name))
        throw new CollectiveError('usage', `${name} is a maintain session: it is ended with collective maintain.`);
      await this.#options.machines.reset(name);
    });
  }

  async delete({ name, confirmation }: DeleteRequest): Promise<void> {
    if (confirmation !== name)
      throw new CollectiveError('usage', `Nothing was deleted: the name was not ${name}, but "${confirmation}".`);
    await this.#options.inTurn(async (session, data) => {
      refuseRenamed(await data.followNames(), [name]);
      assertAtRest(data, name);
      const { subscription, isRegistered } = data.backup(name).state;
      // One that nobody else knows is gone with its files.
      if (isRegistered) {
        await session.client.call('deleteSubscription', { params: { subscription } }).catch((error: unknown) => {
          // Deleted on another device so long ago that the repository has forgotten it.
          if (!hasCode(error, 'not-found')) throw error;
        });
        const now = Math.floor(Date.now() / 1000);
        await session.profile.update((profile) => withDeleted(profile, { id: subscription, now }));
      }
      await data.letGo(name);
      const folder = join(this.#options.home.machinesDirectory, name);
      // What says what it is goes last: killed in between, it is still a machine that can be deleted, and nothing begins over its remains.
      for (const each of await readdir(folder))
        if (each !== backupFileName) await rm(join(folder, each), { recursive: true, force: true });
      await rm(folder, { recursive: true, force: true });
    });
  }

  /** What the repository still has of a deleted one is there again, for all devices; again is the same. */
  async restore({ name }: RestoreRequest): Promise<RestoreReply> {
    return this.#options.inTurn(async (session) => {
      const profile = await session.profile.refresh();
      const found = profile?.deletedSubscriptions?.findLast(({ was }) => was?.name === name);
      if (found === undefined) throw new CollectiveError('not-found', `No ${name} of yours was deleted lately.`);
      const { id } = found;
      await session.client.call('restoreSubscription', { params: { subscription: id } });
      const { subscriptions } = await session.profile.update((now) => withBroughtBack(now, id));
      return { name: subscriptions.find((one) => one.id === id)?.name ?? name };
    });
  }

  async settings(change: Partial<Settings>): Promise<Settings> {
    const { settingsFile } = this.#options.home;
    const settings = { ...(await readSettings(settingsFile)), ...change };
    if (Object.keys(change).length === 0) return settings;
    await writeSettings(settingsFile, settings);
    this.#options.onSettings();
    return settings;
  }

  async continue({ name, which, discard }: ContinueRequest): Promise<ContinueReply> {
    return this.#options.inTurn(async (session, data) => {
      const backup = data.backup(name);
      if (which === 'here') {
        if (backup.state.apart === null || discard === true) assertAtRest(data, name);
        const isApart = backup.state.apart !== null;
        if (isApart) await continueHere(backup, data.restoreParts(name));
        if (!isApart || discard === true)
          await data
            .aside(name, async () => continueWithout(backup, { isDiscarded: discard === true }))
            .catch((error: unknown) => {
              // Nothing is lost, and the choice between the two is made.
              if (!isApart || !hasCode(error, 'bad-request')) throw error;
            });
        // What only the other device had lies in an overlay here from now on.
        const subscription = await Subscription.open(this.#options.home.machinesDirectory, name);
        await keepDisks(backup, subscription, backup.state.writer?.version ?? 1);
        return { name };
      }
      assertAtRest(data, name);
      const taken = [
        ...(session.profile.profile?.subscriptions.map((each) => each.name) ?? []),
        // One that the profile does not have yet, or an appliance of that name.
        ...(await readdir(this.#options.home.machinesDirectory)),
      ];
      const addedName = freeName(name, taken);
      await keepBoth(backup, addedName);
      await data.letGo(name);
      // Which moves its folder: so does whoever takes it up after a kill.
      return { name, addedName: await data.takeUp(name) };
    });
  }
}

function assertAtRest(data: PersonData, name: string): void {
  if (data.isUp(name)) throw new CollectiveError('in-use', `${name} is running: stop it first.`);
  if (data.isSuspended(name)) throw new CollectiveError('suspended', `${name} is suspended: resume and stop it first.`);
}

/** The undo itself is done. */
const saidOfUnfinished = (
  { what, error }: NonNullable<Undone['unfinished']>,
  { name, before }: { readonly name: string; readonly before: number },
): string => {
  const why = error instanceof Error ? error.message : String(error);
  return what === 'disks'
    ? `The disks here are not in that state yet (${why}): that is done by itself, and before ${name} starts.`
    : `Snapshot ${String(before)} is not marked as kept yet (${why}): that is done by itself when it can be.`;
};

const notSaved = (name: string, why: string): CollectiveError =>
  new CollectiveError(
    'unsaved',
    `${name}: the snapshot is made and kept here (${why}); it goes to the repository by itself.`,
  );
