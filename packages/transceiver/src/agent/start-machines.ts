/** `collective start`: what is suspended goes on, the rest begins with the version that was asked for, verified here. */
import { CollectiveError, hasCode, type VersionManifest } from '@collective/shared';
import { NO_HINTS, type StartHints } from './boot-traces.js';
import type { JobContext } from './agent-server.js';
import type { StartedMachine, StartRequest } from './agent-types.js';
import { START_BYTES, START_BYTES_A_DISK, withRoom } from './local-room.js';
import type { MachinePort } from './machine-port.js';
import { isMaintenance } from './maintenance.js';
import { mandatoryNotes, resumedNotes } from './mandatory-version.js';
import type { ObjectCache } from './object-cache.js';
import { refuseRenamed, saidOf } from './own-names.js';
import type { PersonData } from './person-data.js';
import { parseReference, type Reference } from './reference.js';
import { resumeIfSuspended } from './resume-if-suspended.js';
import { runnableVersion } from './runnable-version.js';
import type { Session } from './session.js';
import { describeAtHand, versionsAtHand } from './versions-at-hand.js';

const DEFAULT_WAIT_MS = 600_000;

export type StartParts = {
  readonly session: Session;
  readonly objects: ObjectCache;
  readonly machines: MachinePort;
  readonly machinesDirectory: string;
  readonly data: PersonData;
  readonly job: JobContext;
};

/**
 * Resolves when all run. Errors: `usage`, `outdated`, those of runnableVersion and of the machine port; `disk-full` with what is missing. What ran
 * before one goes on.
 */
export async function startMachines(request: StartRequest, parts: StartParts): Promise<readonly StartedMachine[]> {
  const references = request.names.map((text) => parseReference(text));
  // Of each machine, as soon as its version is known: what is needed is looked at when something has failed.
  const diskCounts = new Map(references.map(({ name }) => [name, Math.max(1, parts.data.diskCount(name))]));
  const room = {
    folder: parts.machinesDirectory,
    what: `starting ${references.map(({ name }) => name).join(' and ')}`,
    get neededBytes() {
      return [...diskCounts.values()].reduce((sum, count) => sum + START_BYTES + count * START_BYTES_A_DISK, 0);
    },
  };
  return withRoom(room, async () => startEach(references, request, { ...parts, diskCounts }));
}

async function startEach(
  references: readonly Reference[],
  request: StartRequest,
  parts: StartParts & { readonly diskCounts: Map<string, number> },
): Promise<readonly StartedMachine[]> {
  const { session, objects, machines, data, job, diskCounts } = parts;
  if (new Set(references.map(({ name }) => name)).size !== references.length)
    throw new CollectiveError('usage', 'An appliance is named twice.');
  for (const { name } of references) await refuseMaintenance(parts.machinesDirectory, name);
  const blocks = await session.blocks();
  const started: StartedMachine[] = [];
  const toStart: Reference[] = [];
  // First: what is suspended needs no news from the repository.
  for (const reference of references) {
    const resumed = await resumeIfSuspended(machines, reference, {
      ...{ blocks, job, diskKeys: session.diskKeys, blockKeys: session.blockKeys },
      isFresh: request.fresh === true,
    });
    if (resumed === undefined) toStart.push(reference);
    else
      started.push({
        ...resumed,
        notes: [...resumed.notes, ...resumedNotes(session.trust, { ...resumed, name: data.applianceOf(resumed.name) })],
      });
    data.started(reference.name);
  }
  if (toStart.length === 0) return started;
  const { source, note } = await newsFor(session, job.signal);
  if (note !== undefined) job.emit({ event: 'note', text: note });
  const moved = await data.followNames();
  for (const each of moved) job.emit({ event: 'note', text: saidOf(each) });
  refuseRenamed(
    moved,
    toStart.map(({ name }) => name),
  );
  for (const { name, version } of toStart) {
    job.emit({ event: 'progress', step: 'verify', text: `Verifying ${name}` });
    const appliance = data.applianceOf(name);
    const isOnline = source !== undefined;
    const wanted = { name: appliance, ...(version === undefined ? {} : { version }), isOnline };
    let hints: Promise<StartHints> = Promise.resolve(NO_HINTS);
    const onVerified = (manifest: VersionManifest): void => {
      hints = data.traces.forStart(manifest, { isOnline, signal: job.signal });
      hints.catch(() => undefined); // aborted: so is what is awaited first
    };
    const found = await runnableVersion(wanted, { session, objects, signal: job.signal, onVerified }).catch(
      async (error: unknown) => {
        throw wanted.isOnline ? error : await withAtHand(error, appliance, parts);
      },
    );
    const { verified, disks } = found;
    const { manifest, digest } = verified;
    diskCounts.set(name, Math.max(data.diskCount(name), disks.length));
    const mandatory = mandatoryNotes(session.trust, { ...wanted, version: manifest.version });
    if (!wanted.isOnline) await sayWhatIsMissing(appliance, manifest.version, parts);
    job.signal.throwIfAborted();
    job.emit({ event: 'progress', step: 'start', text: `Starting ${name}@${String(manifest.version)}` });
    const isTakenOver = request.takeOver === true;
    const wish = { name, appliance, version: found, isOnline, isTakenOver, job };
    const notes = await data.start(wish, async ({ bases, notes: mine }) => {
      const plan = {
        ...{ name, appliance, disks, blocks, bases, ...(await hints) },
        replaysPrivateTraces: !(await data.traces.isMetered()),
        // After the news: another device may have unlocked some, or have begun a new epoch.
        diskKeys: session.diskKeys,
        blockKeys: session.blockKeys,
        version: manifest.version,
        manifest: digest,
        machine: manifest.machine,
        ...(request.accel === undefined ? {} : { accel: request.accel }),
      };
      const { notes: said } = await machines.start(plan, job.signal);
      return [...mine, ...said];
    });
    started.push({ name, version: manifest.version, notes: [...verified.notes, ...mandatory, ...notes] });
  }
  return started;
}

const REVOKED =
  'This device has been revoked: what is here can still be started, so that you can take out of it what you need. Nothing of it is saved any more.';

/** A revoked device works as one without the repository: its person must get at what was not saved. Errors: others of Session.refresh. */
async function newsFor(session: Session, signal: AbortSignal): ReturnType<Session['refresh']> {
  try {
    return await session.refresh(signal);
  } catch (error) {
    if (hasCode(error, 'device-revoked')) return { source: undefined, note: REVOKED };
    throw error;
  }
}

async function refuseMaintenance(machinesDirectory: string, name: string): Promise<void> {
  if (!(await isMaintenance(machinesDirectory, name))) return;
  throw new CollectiveError('usage', `${name} is a maintain session: it is started with collective maintain.`);
}

/** Before it is started: it will be paused when it needs a block that is not here. */
async function sayWhatIsMissing(name: string, version: number, parts: StartParts): Promise<void> {
  const found = await versionsAtHand([name], parts, { mayStart: true });
  const atHand = found?.get(name)?.find((each) => each.version === version);
  if (atHand === undefined || atHand.missingBlocks === 0) return;
  const text = `${name}@${String(version)}: ${describeAtHand(atHand)}. Without the repository it is paused when it needs some of that.`;
  parts.job.emit({ event: 'note', text });
}

/** What could be started instead of a version that is not here. */
async function withAtHand(error: unknown, name: string, parts: StartParts): Promise<unknown> {
  if (!hasCode(error, 'repository-unreachable')) return error;
  const found = (await versionsAtHand([name], parts, { mayStart: true }))?.get(name) ?? [];
  const rows = found.map((atHand) => `${name}@${String(atHand.version)} (${describeAtHand(atHand)})`);
  const text =
    rows.length === 0 ? `Of ${name} no version is whole enough to run.` : `What is here: ${rows.join(', ')}.`;
  return new CollectiveError('repository-unreachable', `${error.message} ${text}`, { cause: error });
}

/** With `waitFor`: resolves when each console has shown it. Errors: `no-boot`. */
export async function waitUntilReady(
  { waitFor, waitMs = DEFAULT_WAIT_MS }: StartRequest,
  options: {
    readonly started: readonly StartedMachine[];
    readonly machines: Pick<MachinePort, 'waitForConsole'>;
    readonly job: JobContext;
    /** By performance.now(). */
    readonly beganAt: number;
  },
): Promise<readonly StartedMachine[]> {
  const { started, machines, job, beganAt } = options;
  if (waitFor === undefined) return started;
  return Promise.all(
    started.map(async (machine) => {
      const what = waitFor === 'login' ? 'the login prompt' : `"${waitFor}"`;
      job.emit({ event: 'progress', step: 'wait', text: `Waiting for ${what} of ${machine.name}` });
      await machines.waitForConsole(machine.name, { text: waitFor, timeoutMs: waitMs, signal: job.signal });
      return { ...machine, readyMs: Math.round(performance.now() - beganAt) };
    }),
  );
}
