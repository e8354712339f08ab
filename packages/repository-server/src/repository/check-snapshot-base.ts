/**
 * Where *inherit* continues on a user disk: the initial user disk of a version that the person may read, or what a kept
 * snapshot of the subscription continues in already, whatever became of that version.
 */
import { CollectiveError, type SnapshotDisk, type SnapshotManifest } from '@collective/shared';
import { type SubscriptionName } from '../storage/blob-names.js';
import { type Repository } from './repository.js';
import { requireSnapshotFile } from './snapshot-file.js';
import { readVersionFile } from './version-file.js';

/** Errors: `bad-request` for a base that is none. */
export const checkUserBase = async (
  repository: Repository,
  of: {
    readonly record: SubscriptionName & { readonly appliance: string };
    readonly readable: readonly string[] | undefined;
    readonly parent: SnapshotManifest | undefined;
  },
  disk: SnapshotDisk,
): Promise<void> => {
  if (disk.base === null || hasBase(of.parent, disk)) return;
  if (of.readable === undefined || of.readable.includes(of.record.appliance)) {
    if (await isInitialDisk(repository, of.record.appliance, disk)) return;
  }
  for (const record of (await repository.catalogue.subscriptions.snapshots(of.record, ['kept'])).reverse()) {
    if (hasBase((await requireSnapshotFile(repository.blobStore, record)).manifest, disk)) return;
  }
  throw new CollectiveError(
    'bad-request',
    `disk ${disk.name}: ${disk.base} is the initial user disk of no version of ${of.record.appliance} that you may read`,
  );
};

/** Inherit goes by position: another size or block size is another disk. */
const isAlike = (
  a: { readonly diskBytes: number; readonly blockBytes: number },
  b: { readonly diskBytes: number; readonly blockBytes: number },
): boolean => a.diskBytes === b.diskBytes && a.blockBytes === b.blockBytes;

const hasBase = (manifest: SnapshotManifest | undefined, disk: SnapshotDisk): boolean =>
  manifest?.disks.some(({ kind, base, ...shape }) => kind === 'user' && base === disk.base && isAlike(shape, disk)) ===
  true;

const isInitialDisk = async (
  { catalogue, blobStore }: Repository,
  appliance: string,
  disk: SnapshotDisk,
): Promise<boolean> => {
  for (const { version, state } of (await catalogue.versions.versions(appliance)).reverse()) {
    if (state !== 'live' && state !== 'withdrawn') continue;
    const file = await readVersionFile(blobStore, appliance, version);
    const found = file?.manifest.disks.some(
      ({ kind, root, ...shape }) => kind === 'user' && root === disk.base && isAlike(shape, disk),
    );
    if (found === true) return true;
  }
  return false;
};
