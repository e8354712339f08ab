/**
 * Boot traces of the system disks of published versions (docs/formats/trace.md): each boot that a transceiver tells of is a vote, one a person, disk and
 * day, and whoever starts the disk next gets what most votes say. The boot that precedes a publication is a vote, too, and stays as long as the version. A
 * version that nobody has booted yet inherits from the one before: what its publisher found by file, else what is found here by digest and position.
 *
 * They are hints: a wrong one costs its receiver a needless download of blocks that the disk has anyway. The file of a vote is named by an HMAC of person
 * and day, so the folder tells nobody who booted what and when.
 */
import { createHmac } from 'node:crypto';
import {
  type BootTrace,
  CollectiveError,
  decodeBootTrace,
  type Digest,
  type DiskDescription,
  type DiskMap,
  encodeBootTrace,
  type Heir,
  inheritTrace,
  isDiskName,
  mergeTraces,
  type VersionManifest,
} from '@collective/shared';
import {
  type BlobName,
  isId,
  mergedUseName,
  packedTraceName,
  PUBLISHERS_TRACES,
  type PublishersTrace,
  publishersTraceName,
  tracesFolder,
  traceVoteName,
  traceVotesFolder,
  useRecordName,
  useRecordsFolder,
} from '../storage/blob-names.js';
import { type BlobStore } from '../storage/blob-store.js';
import { type Repository } from './repository.js';
import { readVersionFile } from './version-file.js';

/** Of one disk; a new one takes the place of an older one. */
export const TRACE_VOTES_MAX = 32;
/** So many versions back an ancestor with votes is looked for. */
const ANCESTORS_MAX = 8;
const SECONDS_PER_DAY = 86_400;

export type TracedDisk = { readonly name: string; readonly version: number; readonly disk: DiskDescription };
type Parts = Pick<Repository, 'blobStore' | 'catalogue' | 'maps'>;

/** Takes the vote of an account. Errors: those of decodeBootTrace, `bad-request` for a trace of another disk or of blocks that it does not have. */
export const addTraceVote = async (
  { blobStore, keys, clock }: Pick<Repository, 'blobStore' | 'keys' | 'clock'>,
  of: TracedDisk,
  { account, bytes }: { readonly account: string; readonly bytes: Uint8Array },
): Promise<void> => {
  const { name, version, disk } = of;
  const trace = traceOfDisk(of, bytes);
  const vote = voteId({ keys, clock }, of, { account, what: 'boot trace' });
  const doomed = doomedVote(await votesOf(blobStore, of), vote);
  if (doomed !== undefined) await blobStore.remove(traceVoteName(name, version, disk.name, doomed));
  await blobStore.replace(traceVoteName(name, version, disk.name, vote), encodeBootTrace(trace));
};

/** One a person, disk and day. */
export const voteId = (
  { keys, clock }: Pick<Repository, 'keys' | 'clock'>,
  { name, version, disk }: TracedDisk,
  { account, what }: { readonly account: string; readonly what: 'boot trace' | 'use record' },
): string => {
  const day = Math.floor(clock.nowSeconds() / SECONDS_PER_DAY);
  return createHmac('sha256', keys.nameSecret)
    .update(`${what}\0${name}\0${version}\0${disk.name}\0${account}\0${day}`)
    .digest('hex')
    .slice(0, 32);
};

/** Which one makes room for a new vote: names are random, so is that. */
export const doomedVote = (votes: readonly string[], vote: string): string | undefined =>
  votes.length >= TRACE_VOTES_MAX && !votes.includes(vote)
    ? votes[Number.parseInt(vote.slice(0, 8), 16) % TRACE_VOTES_MAX]
    : undefined;

/** What its publisher tells of a version; in place of what was told before. Errors as of addTraceVote. */
export const putPublishersTrace = async (
  blobStore: BlobStore,
  of: TracedDisk,
  { kind, bytes }: { readonly kind: PublishersTrace; readonly bytes: Uint8Array },
): Promise<void> => {
  const trace = traceOfDisk(of, bytes);
  await blobStore.replace(
    publishersTraceName(of.name, of.version, { disk: of.disk.name, kind }),
    encodeBootTrace(trace),
  );
};

const traceOfDisk = ({ name, version, disk }: TracedDisk, bytes: Uint8Array): BootTrace => {
  // What is packed the server alone says.
  const { segments: _segments, ...trace } = decodeBootTrace(bytes);
  if (trace.root !== disk.root || trace.blockBytes !== disk.blockBytes || trace.version !== version)
    throw new CollectiveError('bad-request', `the trace is not of disk ${disk.name} of ${name}@${version}`);
  const blockCount = Math.ceil(disk.diskBytes / disk.blockBytes);
  if (trace.touches.some(({ blockIndex }) => blockIndex >= blockCount))
    throw new CollectiveError('bad-request', `the trace names a block that disk ${disk.name} does not have`);
  return trace;
};

/** What is to be fetched ahead of a boot of this disk, with the lengths of its chunks; undefined when nothing is known. */
export const traceFor = async (parts: Parts, of: TracedDisk): Promise<BootTrace | undefined> => {
  const packed = await packedTrace(parts.blobStore, of);
  if (packed !== undefined) return packed;
  const trace = await foundTrace(parts, of);
  return trace === undefined ? undefined : withLengths(parts, of, trace);
};

/** The trace whose blocks have been packed (boot-objects.ts); undefined where there is none that can be read. */
export const packedTrace = async (
  blobStore: BlobStore,
  { name, version, disk }: TracedDisk,
): Promise<BootTrace | undefined> => {
  const trace = await readTrace(blobStore, packedTraceName(name, version, disk.name), disk);
  return trace?.segments === undefined ? undefined : trace;
};

const withLengths = async ({ maps, catalogue }: Parts, of: TracedDisk, trace: BootTrace): Promise<BootTrace> => {
  const map = await maps.load(of.disk);
  const digests = trace.touches.map(({ blockIndex }) => map.digestAt(blockIndex));
  const known = digests.filter((digest) => digest !== undefined);
  const chunks = await catalogue.versions.liveChunks(known, [of.name]);
  const lengthOf = (digest: Digest | undefined): number =>
    (digest === undefined ? undefined : chunks.get(digest)?.chunkBytes) ?? 0;
  return { ...trace, touches: trace.touches.map((touch, at) => ({ ...touch, chunkBytes: lengthOf(digests[at]) })) };
};

const foundTrace = async (parts: Parts, of: TracedDisk): Promise<BootTrace | undefined> => {
  const { root } = of.disk;
  if (root === null) return undefined;
  const own = await ownTrace(parts.blobStore, of);
  if (own !== undefined) return own;
  return inherited(parts, { ...of, root }, { own: ownTrace, move: inheritTrace });
};

/** What a version without has from the nearest of its ancestors that has some: `own` of an ancestor's disk, moved to the blocks of this one. */
export const inherited = async <T>(
  { blobStore, maps }: Parts,
  of: TracedDisk & { readonly root: Digest },
  {
    own,
    move,
  }: {
    readonly own: (blobStore: BlobStore, of: TracedDisk) => Promise<T | undefined>;
    readonly move: (of: T, from: DiskMap, to: Heir) => T;
  },
): Promise<T | undefined> => {
  const { name, root } = of;
  let version: number | undefined = of.version;
  for (let back = 0; back < ANCESTORS_MAX; back += 1) {
    version = await parentOf(blobStore, name, version);
    if (version === undefined) return undefined;
    const file = await readVersionFile(blobStore, name, version);
    const disk = file?.manifest.disks.find((each) => each.name === of.disk.name);
    if (disk === undefined || disk.root === null || disk.blockBytes !== of.disk.blockBytes) continue;
    const found = await own(blobStore, { name, version, disk });
    const from = found === undefined ? undefined : await loadIfThere(maps, disk);
    if (found === undefined || from === undefined) continue;
    return move(found, from, { map: await maps.load(of.disk), version: of.version, root });
  }
  return undefined;
};

/** With the version that they are of; use records (disk-uses.ts) too. */
export const removeTraces = async (blobStore: BlobStore, name: string, version: number): Promise<void> => {
  for (const disk of (await blobStore.list(tracesFolder(name, version))).filter(isDiskName)) {
    for (const vote of (await blobStore.list(traceVotesFolder(name, version, disk))).filter(isId))
      await blobStore.remove(traceVoteName(name, version, disk, vote));
    for (const record of (await blobStore.list(useRecordsFolder(name, version, disk))).filter(isId))
      await blobStore.remove(useRecordName(name, version, { disk, record }));
    await blobStore.remove(mergedUseName(name, version, disk));
    await blobStore.remove(packedTraceName(name, version, disk));
    for (const kind of PUBLISHERS_TRACES) await blobStore.remove(publishersTraceName(name, version, { disk, kind }));
  }
};

/** The chunks in which boots of a version are packed. */
export const packedChunks = async (
  blobStore: BlobStore,
  { appliance, version, disks }: Pick<VersionManifest, 'appliance' | 'version' | 'disks'>,
): Promise<Digest[]> => {
  const traces = await Promise.all(
    disks.map(async (disk) => packedTrace(blobStore, { name: appliance, version, disk })),
  );
  return traces.flatMap((trace) => trace?.segments?.map(({ digest }) => digest) ?? []);
};

const votesOf = async (blobStore: BlobStore, { name, version, disk }: TracedDisk): Promise<string[]> =>
  (await blobStore.list(traceVotesFolder(name, version, disk.name))).filter(isId);

/** What is known of this version itself: what its boots say, else what its publisher found that it inherits. */
export const ownTrace = async (blobStore: BlobStore, of: TracedDisk): Promise<BootTrace | undefined> => {
  const { name, version, disk } = of;
  const told = (kind: PublishersTrace) => publishersTraceName(name, version, { disk: disk.name, kind });
  const traces: BootTrace[] = [];
  const votes = (await votesOf(blobStore, of)).map((vote) => traceVoteName(name, version, disk.name, vote));
  for (const file of [told('publication'), ...votes]) {
    const trace = await readTrace(blobStore, file, disk);
    if (trace !== undefined) traces.push(trace);
  }
  return traces.length === 0 ? readTrace(blobStore, told('inherited'), disk) : mergeTraces(traces);
};

const readTrace = async (
  blobStore: BlobStore,
  file: BlobName,
  disk: DiskDescription,
): Promise<BootTrace | undefined> => {
  const bytes = await blobStore.read(file);
  const trace = bytes === undefined ? undefined : readable(bytes);
  return trace?.root === disk.root && trace.blockBytes === disk.blockBytes ? trace : undefined;
};

/** A damaged vote does not count. */
const readable = (bytes: Uint8Array): BootTrace | undefined => {
  try {
    return decodeBootTrace(bytes);
  } catch {
    return undefined;
  }
};

const parentOf = async (blobStore: BlobStore, name: string, version: number): Promise<number | undefined> =>
  (await readVersionFile(blobStore, name, version))?.manifest.parent?.version;

/** The pages of a version that was deleted may have been collected. */
const loadIfThere = async (maps: Repository['maps'], disk: DiskDescription) =>
  maps.load(disk).catch((error: unknown) => {
    if (error instanceof CollectiveError && error.code === 'block-missing') return undefined;
    throw error;
  });
