/**
 * What a person saved, on any of their transceivers: the newest snapshot of a subscription, or an older one by number. It is
 * verified (snapshot-trust.ts, nothing older than what was seen), its maps are fetched and checked, and base files are
 * written over which a disk can be attached. Blocks come later, when they are read.
 */
import {
  CollectiveError,
  hasCode,
  type Digest,
  type DiskMap,
  type SnapshotDisk,
  type SnapshotManifest,
} from '@collective/shared';
import { bringTraces, type PrivateTraces } from './bring-traces.js';
import { BaseFolder, type NamedBase } from './base-file.js';
import {
  BackupFile,
  PERIOD_SECONDS_DEFAULT,
  type BackupDisk,
  type BackupState,
  type SavedHead,
} from './backup-file.js';
import type { BackupPerson } from './backup-person.js';
import { initialState } from './base-file.js';
import { remoteSubscription } from './remote-head.js';
import { fetchSnapshotMap } from './snapshot-maps.js';
import { SnapshotObjects } from './snapshot-objects.js';
import { requireNotOlder, type SnapshotName, type SnapshotTrust, type VerifiedSnapshot } from './snapshot-trust.js';

/** A chain of parents is followed so far; a device that has not seen more snapshots than this believes the signature. */
const CHAIN_STEPS_MAX = 256;
/** How often a snapshot may go away while it is read. */
const TRIES_MAX = 3;

/** Finds the initial user disk that a snapshot's blocks inherit from. */
export interface BaseMaps {
  /** Errors: `not-found` when no version that this person may read begins so; those of the network. */
  find(wanted: {
    readonly appliance: string;
    /** The version that wrote the snapshot: most often it is its initial disk. */
    readonly version: number;
    readonly disk: Pick<SnapshotDisk, 'name' | 'diskBytes' | 'blockBytes'>;
    readonly root: Digest;
  }): Promise<{ readonly version: number; readonly map: DiskMap }>;
}

export type RestoreParts = {
  readonly person: BackupPerson;
  readonly trust: SnapshotTrust;
  readonly baseMaps: BaseMaps;
  /** The folder of a disk's overlay; bases and maps are written there. */
  readonly overlayOf: (disk: string) => string;
  /** Absent: boot traces are left where they are. */
  readonly traces?: PrivateTraces;
  readonly signal?: AbortSignal;
};

export type RestoredDisk = { readonly disk: BackupDisk; readonly base: NamedBase };
export type RestoredSnapshot = {
  readonly snapshot: VerifiedSnapshot;
  /** By the server's clock; null for a snapshot of the history. */
  readonly committedAt: number | null;
  readonly disks: readonly RestoredDisk[];
};

/** The newest snapshot's name and time. Errors: `not-found`, `rollback`, those of the network. */
export async function newestSnapshot(
  { person, trust, signal }: Pick<RestoreParts, 'person' | 'trust' | 'signal'>,
  subscription: string,
  seenHere: SnapshotName | undefined,
): Promise<SavedHead> {
  const remote = await remoteSubscription(person.client, subscription, signal);
  const inProfile = person.profile?.subscriptions.find(({ id }) => id === subscription)?.head ?? undefined;
  const head = remote?.head ?? undefined;
  requireNotOlder(head, [seenHere, inProfile]);
  if (head === undefined || remote?.deletedAt !== null)
    throw new CollectiveError('not-found', `Nothing is saved of the subscription ${subscription}, or it was deleted.`);
  const snapshot = await trust.fetch({ subscription, number: head.number, digest: head.manifest }, signal);
  for (const seen of [seenHere, inProfile])
    if (seen !== undefined) await requireDescent({ trust, subscription, newest: snapshot, seen }, signal);
  return { ...head, deviceName: snapshot.deviceName };
}

/** What was seen must be among the ancestors. Errors: `rollback`. */
async function requireDescent(
  of: {
    readonly trust: SnapshotTrust;
    readonly subscription: string;
    readonly newest: VerifiedSnapshot;
    readonly seen: SnapshotName;
  },
  signal: AbortSignal | undefined,
): Promise<void> {
  const { trust, subscription, seen } = of;
  let at = of.newest;
  for (let steps = 0; at.manifest.number > seen.number; steps += 1) {
    if (steps >= CHAIN_STEPS_MAX) return;
    const { parent } = at.manifest;
    if (parent === null || parent.number < seen.number) throw otherHistory(seen);
    if (parent.number === seen.number) {
      if (parent.manifest === seen.manifest) return;
      throw otherHistory(seen);
    }
    at = await trust.fetch({ subscription, number: parent.number, digest: parent.manifest }, signal);
  }
}

const otherHistory = (seen: SnapshotName): CollectiveError =>
  new CollectiveError(
    'rollback',
    `The newest snapshot does not follow snapshot ${String(seen.number)} that was seen before.`,
    { data: { seen: seen.number } },
  );

/**
 * A snapshot by number, with base files for its disks, durable. `as`: what the base files say that they are of; for an undo
 * that is the snapshot that will bring this one back. `bringsTraces`: the boot traces of its disks take the place of those here. Errors: `not-found`, `untrusted`, `block-missing` and those of
 * damaged maps; those of the network; `disk-full`, `local-io`.
 */
export async function fetchSnapshot(
  parts: RestoreParts,
  of: {
    readonly subscription: string;
    readonly number: number;
    readonly digest?: Digest;
    readonly as?: number;
    readonly bringsTraces?: boolean;
  },
): Promise<RestoredSnapshot> {
  const { person, trust, signal } = parts;
  const snapshot = await trust.fetch(of, signal);
  const { manifest } = snapshot;
  const objects = new SnapshotObjects(person.client, of.subscription);
  const disks: RestoredDisk[] = [];
  for (const disk of manifest.disks) {
    if (disk.kind !== 'user') continue;
    const map = await fetchSnapshotMap({
      ...{ disk, numbers: manifest.objects, objects, client: person.client },
      ...(signal === undefined ? {} : { signal }),
    });
    disks.push(await writeDisk(parts, { disk, map, manifest, as: of.as ?? manifest.number }));
  }
  if (of.bringsTraces === true) await bringTraces(manifest, objects, parts);
  return { snapshot, committedAt: null, disks };
}

async function writeDisk(
  { baseMaps, overlayOf }: RestoreParts,
  of: {
    readonly disk: SnapshotDisk;
    readonly map: DiskMap;
    readonly manifest: SnapshotManifest;
    readonly as: number;
  },
): Promise<RestoredDisk> {
  const { disk, map, manifest } = of;
  const { name, bus, diskBytes, blockBytes } = disk;
  const folder = await BaseFolder.open(overlayOf(name));
  const { appliance, version } = manifest.writtenBy;
  let base: BackupDisk['base'] = null;
  if (disk.base !== null) {
    const found = await baseMaps.find({ appliance, version, disk, root: disk.base });
    const initial = await folder.putMap(found.map.changesSince(undefined));
    base = { appliance, version: found.version, root: disk.base, map: initial };
    // What was found must be what was signed.
    await folder.publicMap(initial, { diskBytes, blockBytes, root: disk.base });
  }
  const state = await folder.putMap(map.changesSince(initialState(disk, base !== null)));
  const named = await folder.putBase({
    ...{ format: 1, subscription: manifest.subscription, number: of.as, diskBytes, blockBytes },
    ...{ root: map.build().root, maps: [state], base, objects: [...manifest.objects] },
  });
  const traced = disk.trace === undefined ? {} : { trace: disk.trace };
  const committed = { root: named.file.root, base: named.name, ...traced };
  return { disk: { name, bus, diskBytes, blockBytes, base, committed, isAttached: true }, base: named };
}

/**
 * The newest snapshot, with its maps. One that goes away while it is read (thinned out, or another one was committed) is
 * looked for again. Errors: as newestSnapshot and fetchSnapshot.
 */
export async function fetchNewest(
  parts: RestoreParts,
  of: { readonly subscription: string; readonly seenHere?: SnapshotName | undefined },
): Promise<RestoredSnapshot & { readonly head: SavedHead }> {
  for (let tries = 1; ; tries += 1) {
    const head = await newestSnapshot(parts, of.subscription, of.seenHere);
    try {
      const { subscription } = of;
      const { number, manifest: digest } = head;
      const restored = await fetchSnapshot(parts, { subscription, number, digest, bringsTraces: true });
      return { ...restored, committedAt: head.committedAt, head };
    } catch (error) {
      const isGone = hasCode(error, 'not-found') || hasCode(error, 'block-missing') || hasCode(error, 'conflict');
      if (!isGone || tries >= TRIES_MAX) throw error;
      const now = await remoteSubscription(parts.person.client, of.subscription, parts.signal);
      if (now?.head?.manifest === head.manifest && tries > 1) throw error;
    }
  }
}

/**
 * Brings a subscription to a home that does not have the machine: maps, base files and backup.json, in this order. A start
 * then attaches each disk over `committed.base`, in an overlay that begins anew (begin-disks.ts). Errors: `exists` when there is a backup.json; as fetchNewest.
 */
export async function restoreMachine(
  parts: RestoreParts,
  of: { readonly folder: string; readonly subscription: string; readonly appliance: string },
): Promise<BackupState> {
  if ((await BackupFile.open(of.folder)) !== undefined)
    throw new CollectiveError('exists', `${of.folder} holds a machine already.`);
  const { head, disks, snapshot } = await fetchNewest(parts, of);
  if (snapshot.manifest.writtenBy.appliance !== of.appliance)
    throw new CollectiveError(
      'untrusted',
      `The snapshot is of ${snapshot.manifest.writtenBy.appliance}, not of ${of.appliance}.`,
    );
  const state: BackupState = {
    ...{ format: 1, subscription: of.subscription, appliance: of.appliance, isRegistered: true },
    periodSeconds: PERIOD_SECONDS_DEFAULT,
    writer: snapshot.manifest.writtenBy,
    disks: disks.map(({ disk }) => ({ ...disk, mustBegin: true as const })),
    head,
    objects: snapshot.manifest.objects,
    ...{ mustResend: false, mustCommit: false, lease: null },
    ...{ pending: null, next: [], toPin: [], apart: null },
  };
  return (await BackupFile.create(of.folder, state)).state;
}

/** Numbers of objects, as a manifest lists them: each once. */
export const ascending = (numbers: readonly number[]): number[] => [...new Set(numbers)].sort((a, b) => a - b);
