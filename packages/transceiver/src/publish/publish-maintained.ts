/**
 * publish from a maintain session: clean up in the guest, let it shut down, read the blocks that the overlay touches, send
 * what the repository lacks, boot the result once, commit it as a candidate, and end the session.
 *
 * Each step may be cut off. Until the guest has shut down by itself the session goes on as it was; after that it is ready
 * (maintenance.ts), and the same command continues from there. The session ends only when the candidate is committed.
 */
import { CollectiveError, type DiskDescription, type SigningKey } from '@collective/shared';
import type { PublishMaintainedRequest, PublishReply } from '../agent/agent-types.js';
import { chooseDiskKey } from '../agent/disk-key-ring.js';
import { loadDiskMap } from '../agent/disk-maps.js';
import type { MaintainedDisk } from '../agent/maintained-disk.js';
import type { MachinePort } from '../agent/machine-port.js';
import type { Maintenance } from '../agent/maintenance.js';
import { Subscription } from '../agent/subscription.js';
import type { TrustSource, VerifiedVersion } from '../agent/trust-client.js';
import type { Home } from '../home.js';
import { describeChanges } from './changed-regions.js';
import { DEFAULT_CLEAN_UP } from './clean-up.js';
import { explainUpload } from './commit-manifest.js';
import { tellFirstTraces } from './first-traces.js';
import { mapBlocks } from './map-image.js';
import { allowedPublishingKey } from './publishing-key.js';
import {
  bootOnce,
  checkNextVersion,
  commitVersion,
  explainConflict,
  nameAccounts,
  sendContents,
  type NewContent,
  type NewVersion,
  type PublishParts,
} from './send-version.js';
import { distinctBlocks } from './upload-plan.js';
import { openUpload } from './upload-session.js';
import { openWorkPool, type WorkPool } from './work-pool.js';

export type MaintainedParts = PublishParts & {
  readonly home: Home;
  readonly machines: Pick<
    MachinePort,
    'bootTest' | 'status' | 'runInMaintained' | 'shutDownCleanly' | 'openMaintainedDisk'
  >;
};

/** Package managers and journals take their time. */
const COMMAND_MS = 600_000;

/**
 * Errors: `conflict` when another version for all was made since the session began, or the guest did not shut down by
 * itself; `bad-image` when a command of the clean-up fails; `usage` when nothing has changed; those of every publish. The
 * session stays then.
 */
export async function publishMaintained(
  request: PublishMaintainedRequest,
  maintenance: Maintenance,
  parts: MaintainedParts,
): Promise<PublishReply> {
  const { session, job, home } = parts;
  const { signal } = job;
  const { name } = request;
  const beganAt = performance.now();
  const { sentBytes: sentBefore, receivedBytes: receivedBefore } = session.client.transferred;
  const { source, note } = await session.refresh(signal);
  if (source === undefined)
    throw new CollectiveError('repository-unreachable', note ?? 'Publishing needs the repository.');
  const key = await allowedPublishingKey(session, name, signal);
  const { base, parent } = await versionsOf(maintenance, parts, source);
  await makeReady(request, maintenance, parts);
  const pool = openWorkPool();
  let disk: MaintainedDisk | undefined;
  try {
    const system = systemDisk(base);
    const map = await loadDiskMap({
      manifest: base.manifest,
      disk: system,
      objects: parts.objects,
      client: session.client,
      signal,
    });
    const subscription = await Subscription.open(home.machinesDirectory, maintenance.machine);
    const checks = await subscription.keyChecks();
    disk = await parts.machines.openMaintainedDisk(
      {
        machine: maintenance.machine,
        appliance: name,
        version: base.manifest.version,
        disk: { description: system, map },
        overlayPath: subscription.overlayPath(system.name),
        diskKey: chooseDiskKey(session.diskKeys, checks, `a disk of ${maintenance.machine}`),
      },
      session.client.address,
    );
    const content = await readChanges(disk, { base, system, map, pool, parts });
    const next: Omit<NewVersion, 'version'> = {
      name,
      draft: {
        machine: base.manifest.machine,
        title: request.title ?? base.manifest.title,
        notes: request.notes ?? '',
        disks: base.manifest.disks.map((description) => ({ description })),
      },
      parent,
      base,
      contents: [content],
      isCandidate: true,
    };
    const committed = await sendAndCommit(request, next, { key, pool, parts });
    const accounts = [...new Set([session.keys.account, ...(request.candidateFor ?? [])])];
    await maintenance.remove(home.exportsDirectory);
    await nameAccounts({ appliance: name, ...committed }, accounts, { key, session, signal });
    await session.refresh(signal);
    const { sentBytes, receivedBytes } = session.client.transferred;
    return {
      name,
      version: committed.version,
      manifest: committed.manifest,
      candidate: true,
      diskBytes: system.diskBytes,
      usedBytes: disk.touched.length * system.blockBytes,
      changedBlocks: content.changes.count,
      sentBytes: sentBytes - sentBefore,
      receivedBytes: receivedBytes - receivedBefore,
      seconds: (performance.now() - beganAt) / 1000,
    };
  } finally {
    await pool.close();
    await disk?.close();
  }
}

/** The version that the session began as, and the version for all, which must still be what it was made from. */
async function versionsOf(
  { appliance, version, manifest }: Maintenance,
  { session }: MaintainedParts,
  source: TrustSource,
): Promise<{ readonly base: VerifiedVersion; readonly parent: VerifiedVersion | undefined }> {
  const { trust } = session;
  const isForAll = trust.heads?.heads.some((head) => head.appliance === appliance) ?? false;
  const parent = isForAll ? await trust.released(appliance, source) : undefined;
  const base =
    parent?.digest === manifest
      ? parent
      : await trust.candidateAsPublisher(appliance, version, source).catch(() => undefined);
  const follows = base?.manifest.parent?.manifest === parent?.digest;
  if (base === undefined || base.digest !== manifest || (base !== parent && !follows)) {
    const newest =
      parent === undefined ? 'there is no version for all' : `version ${String(parent.manifest.version)} is for all`;
    throw new CollectiveError(
      'conflict',
      `The maintain session of ${appliance} began as version ${String(version)}, but now ${newest}: published, it would undo what that changed. Discard it (collective maintain ${appliance} --discard) and begin anew.`,
    );
  }
  return { base, parent };
}

/** The guest is cleaned and has shut down, or had before. */
async function makeReady(
  request: PublishMaintainedRequest,
  maintenance: Maintenance,
  { machines, job }: MaintainedParts,
): Promise<void> {
  const { machine, appliance } = maintenance;
  const state = (await machines.status()).machines.find((each) => each.name === machine)?.state ?? 'stopped';
  if (state === 'suspended') throw new CollectiveError('suspended', `${machine} is suspended: start it again first.`);
  if (state === 'stopped' || state === 'failed') {
    if (maintenance.isReady) return;
    throw new CollectiveError(
      'not-found',
      `${machine} is not running: start it (collective maintain ${appliance}), so that it can be cleaned and shut down.`,
    );
  }
  const commands = request.cleanUp ?? DEFAULT_CLEAN_UP.map(({ command }) => command);
  for (const [at, command] of commands.entries()) {
    job.signal.throwIfAborted();
    job.emit({
      event: 'progress',
      step: 'clean-up',
      text: `Cleaning up in the guest (${String(at + 1)} of ${String(commands.length)})`,
    });
    const { exitCode, output } = await machines.runInMaintained(machine, { command, timeoutMs: COMMAND_MS });
    if (exitCode !== 0)
      throw new CollectiveError(
        'bad-image',
        `The clean-up failed in the guest; nothing was published. "${command}" ended with ${String(exitCode)}: ${output || 'it says nothing'}`,
      );
    if (output !== '') job.emit({ event: 'note', text: output });
  }
  job.emit({ event: 'progress', step: 'shut-down', text: `Shutting ${machine} down` });
  await machines.shutDownCleanly(machine);
  await maintenance.setReady(true);
}

async function readChanges(
  { source, touched }: MaintainedDisk,
  of: {
    readonly base: VerifiedVersion;
    readonly system: DiskDescription;
    readonly map: Parameters<typeof mapBlocks>[0];
    readonly pool: WorkPool;
    readonly parts: MaintainedParts;
  },
): Promise<NewContent> {
  const { base, system, map: before, pool } = of;
  const { job } = of.parts;
  const map = await mapBlocks(before, touched, {
    source,
    pool,
    signal: job.signal,
    onProgress: (done) =>
      job.emit({ event: 'progress', step: 'hash', text: 'Reading what was written', done, total: touched.length }),
  });
  const { root, pages } = map.build();
  const changes = map.changesSince(before);
  if (changes.count === 0)
    throw new CollectiveError(
      'usage',
      `Nothing of ${base.manifest.appliance} has changed: there is nothing to publish.`,
    );
  job.emit({ event: 'note', text: describeChanges(system.name, changes) });
  const since = system.root === null ? 'none' : base.manifest.version;
  return { description: { ...system, root }, source, map, pages, since, changes, blocks: distinctBlocks(changes) };
}

async function sendAndCommit(
  request: PublishMaintainedRequest,
  next: Omit<NewVersion, 'version'>,
  by: { readonly key: SigningKey; readonly pool: WorkPool; readonly parts: MaintainedParts },
): Promise<Awaited<ReturnType<typeof commitVersion>>> {
  const { parts, pool, key } = by;
  const { session, job, home } = parts;
  const { name, parent, contents } = next;
  const { signal } = job;
  const opened = await openUpload(
    { repository: session.device.repository.identity, appliance: name, parent: parent?.manifest.version ?? null },
    { uploadsDirectory: home.uploadsDirectory, client: session.client, signal },
  ).catch(explainConflict(name));
  if (opened.isContinued) job.emit({ event: 'note', text: 'Continuing the upload that was interrupted.' });
  const { upload } = opened;
  const explain = async (error: unknown): Promise<never> => {
    throw await explainUpload(error, { name, upload, client: session.client, signal });
  };
  await sendContents(upload, contents, { parts, pool }).catch(explain);
  const version = checkNextVersion(name, opened.nextVersion, parent?.manifest.version);
  const booted = request.bootTest ? await bootOnce({ ...next, version }, request, parts) : undefined;
  const committed = await commitVersion(upload, { ...next, version }, { key, session, signal })
    .catch(explainConflict(name))
    .catch(explain);
  await opened.forget();
  await tellFirstTraces({ ...next, version }, booted, parts);
  for (const { pages } of contents) await parts.objects.put('page', pages);
  return committed;
}

const systemDisk = ({ manifest }: VerifiedVersion): DiskDescription => {
  const disk = manifest.disks.find(({ kind }) => kind === 'system');
  if (disk === undefined) throw new CollectiveError('malformed', `${manifest.appliance} has no system disk`);
  return disk;
};
