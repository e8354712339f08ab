/**
 * Which versions of an appliance this machine could run without the repository, and what each lacks: those whose manifest was verified here
 * and whose maps are all in the object cache. How many of their blocks are in the block cache is asked of the block daemon.
 *
 * A disk of the person counts from what it began as, not from the version's. Blocks that the person's own writes have covered count all the
 * same, so a little more may be called missing than a guest can ever ask for.
 */
import {
  CollectiveError,
  decodeVersionManifest,
  MAP_KIND,
  openEnvelope,
  PAYLOAD_TYPES,
  type DiskDescription,
  type DiskMap,
  type VersionManifest,
} from '@collective/shared';
import { megabytes } from '../megabytes.js';
import type { VersionAtHand } from './agent-types.js';
import { loadDiskMap } from './disk-maps.js';
import type { BlockList, MachinePort } from './machine-port.js';
import type { ObjectCache } from './object-cache.js';
import { Subscription } from './subscription.js';

/** Of an appliance, the newest. */
const VERSIONS_MAX = 4;
const DIGEST_BYTES = 32;

export type AtHandParts = {
  readonly objects: ObjectCache;
  readonly machines: Pick<MachinePort, 'missing'>;
  readonly machinesDirectory: string;
};

/**
 * By appliance, newest version first; one of which nothing is at hand is not among them. `mayStart`: the block daemon is started when there
 * is none; else nothing at all is known then (undefined).
 */
export async function versionsAtHand(
  names: readonly string[],
  parts: AtHandParts,
  options: { readonly mayStart: boolean },
): Promise<ReadonlyMap<string, readonly VersionAtHand[]> | undefined> {
  const found: { readonly name: string; readonly version: number; readonly lists: readonly BlockList[] }[] = [];
  for (const name of names) {
    const versions = (await parts.objects.verifiedVersions(name)).reverse().slice(0, VERSIONS_MAX);
    for (const version of versions) {
      const lists = await blocksOf(name, version, parts);
      if (lists !== undefined) found.push({ name, version, lists });
    }
  }
  if (found.length === 0) return new Map();
  const counts = await parts.machines.missing(
    found.flatMap(({ lists }) => lists),
    options,
  );
  if (counts === undefined) return undefined;
  const left = [...counts];
  const byName = new Map<string, VersionAtHand[]>();
  for (const { name, version, lists } of found) {
    const sum = { version, blocks: 0, bytes: 0, missingBlocks: 0, missingBytes: 0 };
    for (const { blockBytes } of lists) {
      const { blocks, missing } = left.shift() ?? { blocks: 0, missing: 0 };
      sum.blocks += blocks;
      sum.bytes += blocks * blockBytes;
      sum.missingBlocks += missing;
      sum.missingBytes += missing * blockBytes;
    }
    byName.set(name, [...(byName.get(name) ?? []), sum]);
  }
  return byName;
}

/** `everything is here (456 MB)` or `missing 312 MB of 456 MB`. */
export const describeAtHand = ({ bytes, missingBytes }: VersionAtHand): string =>
  missingBytes === 0
    ? `everything is here (${megabytes(bytes)})`
    : `missing ${megabytes(missingBytes)} of ${megabytes(bytes)}`;

/** The blocks of all its disks; undefined when its manifest or a map is not at hand. */
export async function blocksOf(
  name: string,
  version: number,
  { objects, machinesDirectory }: Pick<AtHandParts, 'objects' | 'machinesDirectory'>,
): Promise<BlockList[] | undefined> {
  try {
    const digest = objects.verifiedManifest(name, version);
    const bytes = digest === undefined ? undefined : objects.get('manifest', digest);
    if (bytes === undefined) return undefined;
    const { payload } = openEnvelope(bytes, { payloadType: PAYLOAD_TYPES.version });
    const manifest = decodeVersionManifest(payload);
    const subscription = await Subscription.read(machinesDirectory, name);
    const lists: BlockList[] = [];
    for (const described of manifest.disks) {
      const disk = asItBegan(described, subscription);
      lists.push({ blockBytes: disk.blockBytes, digests: publicDigests(await mapOf(manifest, disk, objects)) });
    }
    return lists;
  } catch (error) {
    // It cannot be started as it is; why is said by a start.
    if (error instanceof CollectiveError) return undefined;
    throw error;
  }
}

const mapOf = async (manifest: VersionManifest, disk: DiskDescription, objects: ObjectCache): Promise<DiskMap> =>
  loadDiskMap({ manifest, disk, objects, client: undefined });

const asItBegan = (disk: DiskDescription, subscription: Subscription | undefined): DiskDescription => {
  const kept = disk.kind === 'system' ? undefined : subscription?.kept(disk.name);
  return kept === undefined
    ? disk
    : { ...disk, diskBytes: kept.diskBytes, blockBytes: kept.blockBytes, root: kept.root };
};

const publicDigests = ({ kinds, digestBytes }: DiskMap): Buffer => {
  const digests: Buffer[] = [];
  kinds.forEach((kind, at) => {
    if (kind === MAP_KIND.public) digests.push(digestBytes.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES));
  });
  return Buffer.concat(digests);
};
