/**
 * publish: look at the images, hash their blocks, send what the server lacks, boot the result once, sign, commit.
 *
 * The order is what makes it safe: nothing of the repository changes before the commit, and the commit is the signed
 * manifest, made after every block is there. Whatever fails before leaves the upload session, which the next attempt
 * continues. The repository takes the version only on the head that was the parent here (compare and set).
 *
 * The boot test comes after the upload, because then it takes the way of every later start: blocks from the repository
 * through the cache. It tests what people will get, not the file that it was made from.
 */
import {
  CollectiveError,
  DiskMap,
  PAYLOAD_TYPES,
  encodeChangedPairs,
  encodeVersionManifest,
  hasCode,
  isApplianceName,
  signEnvelope,
  type ChangedPairs,
  type Digest,
  type DiskDescription,
  type SigningKey,
  type VersionManifest,
} from '@collective/shared';
import type { JobContext } from '../agent/agent-server.js';
import type { PublishReply, PublishRequest } from '../agent/agent-types.js';
import { loadDiskMap } from '../agent/disk-maps.js';
import type { Home } from '../home.js';
import type { MachinePort, PlannedDisk } from '../agent/machine-port.js';
import type { ObjectCache } from '../agent/object-cache.js';
import type { Session } from '../agent/session.js';
import type { VerifiedVersion } from '../agent/trust-client.js';
import { assertUnchanged, inspectImage, type DiskImage } from './disk-image.js';
import { ImageServer } from './image-bytes.js';
import { mapImage } from './map-image.js';
import { allowedPublishingKey } from './publishing-key.js';
import { parseRecipe } from './recipe.js';
import { uploadBlocks } from './upload.js';
import { distinctBlocks, type BlockList } from './upload-plan.js';
import { openUpload } from './upload-session.js';
import { draftVersion, type DraftDisk, type VersionDraft } from './version-draft.js';
import { WorkPool } from './work-pool.js';

export type PublishParts = {
  readonly session: Session;
  readonly home: Pick<Home, 'uploadsDirectory'>;
  readonly objects: ObjectCache;
  readonly machines: Pick<MachinePort, 'bootTest'>;
  readonly job: JobContext;
};

const BOOT_TIMEOUT_MS = 300_000;

/** A disk with new content: its map, what changed, and where its bytes are read. */
type NewContent = {
  readonly description: DiskDescription;
  readonly server: ImageServer;
  readonly map: DiskMap;
  readonly pages: ReadonlyMap<Digest, Buffer>;
  readonly since: number | 'none';
  readonly changes: ChangedPairs;
  readonly blocks: BlockList;
};

/** Errors: `bad-image`, `bad-machine`, `no-boot`, `not-allowed`, `conflict`, those of the repository. Nothing is published then. */
export async function publishAppliance(request: PublishRequest, parts: PublishParts): Promise<PublishReply> {
  const { session, job } = parts;
  const { signal } = job;
  const { name } = request;
  if (!isApplianceName(name))
    throw new CollectiveError(
      'usage',
      `"${name}" cannot be the name of an appliance: lower-case letters, digits and dashes, at most 63.`,
    );
  const beganAt = performance.now();
  const before = session.client.transferred;
  const recipe = request.machine === undefined ? undefined : parseRecipe(request.machine);
  const images = await inspectImages(request, job);
  const { source, note } = await session.refresh(signal);
  if (source === undefined)
    throw new CollectiveError('repository-unreachable', note ?? 'Publishing needs the repository.');
  const key = await allowedPublishingKey(session, name, signal);
  const isKnown = session.trust.heads?.heads.some((head) => head.appliance === name) ?? false;
  const parent = isKnown ? await session.trust.newest(name, source) : undefined;
  const draft = draftVersion({
    name,
    images,
    recipe,
    parent: parent?.manifest,
    title: request.title,
    notes: request.notes,
  });

  const pool = WorkPool.open();
  const servers: ImageServer[] = [];
  try {
    const contents = await hashImages(draft, { parts, parent, pool, servers });
    const opened = await openUpload(
      { repository: session.device.repository.identity, appliance: name, parent: parent?.manifest.version ?? null },
      { uploadsDirectory: parts.home.uploadsDirectory, client: session.client, signal },
    ).catch(explainConflict(name));
    if (opened.isContinued) job.emit({ event: 'note', text: 'Continuing the upload that was interrupted.' });
    await sendContents(opened.upload, contents, { parts, pool });
    for (const image of images.values()) await assertUnchanged(image);
    if (request.bootTest) await bootOnce(request, { draft, parent, contents, parts });
    const committed = await commit(opened.upload, { name, draft, parent, contents, key, session, signal }).catch(
      explainConflict(name),
    );
    await opened.forget();
    for (const { pages } of contents) await parts.objects.put('page', pages);
    await session.refresh(signal);
    const { sentBytes, receivedBytes } = session.client.transferred;
    return {
      name,
      version: committed.version,
      manifest: committed.manifest,
      diskBytes: sum(contents, ({ description }) => description.diskBytes),
      usedBytes: sum([...images.values()], ({ usedBytes }) => usedBytes),
      changedBlocks: sum(contents, ({ changes }) => changes.count),
      sentBytes: sentBytes - before.sentBytes,
      receivedBytes: receivedBytes - before.receivedBytes,
      seconds: (performance.now() - beganAt) / 1000,
    };
  } finally {
    await pool.close();
    for (const server of servers) await server.close();
  }
}

async function inspectImages(request: PublishRequest, job: JobContext): Promise<Map<string, DiskImage>> {
  const images = new Map<string, DiskImage>();
  for (const { name, file, format } of request.disks) {
    if (images.has(name)) throw new CollectiveError('usage', `Disk "${name}" is given twice.`);
    job.emit({ event: 'progress', step: 'inspect', text: `Looking at ${file}` });
    images.set(name, await inspectImage(file, { signal: job.signal, ...(format === undefined ? {} : { format }) }));
  }
  return images;
}

async function hashImages(
  draft: VersionDraft,
  context: {
    readonly parts: PublishParts;
    readonly parent: VerifiedVersion | undefined;
    readonly pool: WorkPool;
    readonly servers: ImageServer[];
  },
): Promise<NewContent[]> {
  const { parts, parent, pool, servers } = context;
  const withImages = draft.disks.filter(
    (disk): disk is DraftDisk & { readonly image: DiskImage } => disk.image !== undefined,
  );
  const total = sum(withImages, ({ image }) => image.usedBytes);
  const known = new Set<string>();
  const contents: NewContent[] = [];
  let done = 0;
  for (const { description, image } of withImages) {
    const server = await ImageServer.open(image);
    servers.push(server);
    const map = await mapImage(image, {
      source: server.source,
      blockBytes: description.blockBytes,
      pool,
      signal: parts.job.signal,
      onProgress: (readBytes) =>
        parts.job.emit({ event: 'progress', step: 'hash', text: 'Reading the image', done: done + readBytes, total }),
    });
    done += image.usedBytes;
    const older = await olderMap(description, parent, parts);
    const { root, pages } = map.build();
    const changes = map.changesSince(older?.map);
    contents.push({
      description: { ...description, root },
      server,
      map,
      pages,
      since: older?.version ?? 'none',
      changes,
      blocks: distinctBlocks(changes, known),
    });
  }
  return contents;
}

/** The disk's map in the parent version, when the new one can be described as a change of it. */
async function olderMap(
  description: DiskDescription,
  parent: VerifiedVersion | undefined,
  parts: PublishParts,
): Promise<{ readonly map: DiskMap; readonly version: number } | undefined> {
  const disk = parent?.manifest.disks.find((candidate) => candidate.name === description.name);
  if (parent === undefined || disk === undefined || disk.root === null || disk.blockBytes !== description.blockBytes)
    return undefined;
  const { objects, session, job } = parts;
  const map = await loadDiskMap({
    manifest: parent.manifest,
    disk,
    objects,
    client: session.client,
    signal: job.signal,
  });
  return { map, version: parent.manifest.version };
}

async function bootOnce(
  request: PublishRequest,
  version: {
    readonly draft: VersionDraft;
    readonly parent: VerifiedVersion | undefined;
    readonly contents: readonly NewContent[];
    readonly parts: PublishParts;
  },
): Promise<void> {
  const { draft, parent, contents, parts } = version;
  const { job, machines, session, objects } = parts;
  job.emit({ event: 'progress', step: 'boot', text: 'Booting it once, in overlays that are thrown away' });
  const disks: PlannedDisk[] = [];
  for (const { description } of draft.disks) {
    const content = contents.find((candidate) => candidate.description.name === description.name);
    if (content !== undefined) disks.push({ description: content.description, map: content.map });
    else if (parent === undefined || description.root === null)
      disks.push({ description, map: DiskMap.empty(description) });
    else
      disks.push({
        description,
        map: await loadDiskMap({
          manifest: parent.manifest,
          disk: description,
          objects,
          client: session.client,
          signal: job.signal,
        }),
      });
  }
  await machines.bootTest({
    name: request.name,
    version: nextVersion(parent),
    machine: draft.machine,
    disks,
    blocks: session.client.address,
    ...(request.bootText === undefined ? {} : { text: request.bootText }),
    timeoutMs: request.bootTimeoutMs ?? BOOT_TIMEOUT_MS,
    signal: job.signal,
  });
  job.emit({ event: 'note', text: 'It boots.' });
}

async function sendContents(
  upload: string,
  contents: readonly NewContent[],
  context: { readonly parts: PublishParts; readonly pool: WorkPool },
): Promise<void> {
  const { session, job } = context.parts;
  const total = sum(contents, ({ blocks }) => blocks.blockIndexes.length);
  let done = 0;
  for (const { description, server, blocks } of contents) {
    await uploadBlocks(
      upload,
      { source: server.source, blockBytes: description.blockBytes, blocks },
      {
        client: session.client,
        pool: context.pool,
        signal: job.signal,
        onProgress: (there) =>
          job.emit({
            event: 'progress',
            step: 'upload',
            text: 'Sending what the repository lacks',
            done: done + there,
            total,
          }),
      },
    );
    done += blocks.blockIndexes.length;
  }
  for (const { description, changes, since } of contents) {
    const { root } = await session.client.call('uploadDisk', {
      params: { upload, disk: description.name },
      query: { since: String(since) },
      body: encodeChangedPairs(changes),
      signal: job.signal,
    });
    if (root !== description.root) {
      throw new CollectiveError(
        'digest-mismatch',
        `The repository built the map ${root} for disk ${description.name}, this machine ${String(description.root)}.`,
      );
    }
  }
}

async function commit(
  upload: string,
  version: {
    readonly name: string;
    readonly draft: VersionDraft;
    readonly parent: VerifiedVersion | undefined;
    readonly contents: readonly NewContent[];
    readonly key: SigningKey;
    readonly session: Session;
    readonly signal: AbortSignal;
  },
): Promise<{ readonly version: number; readonly manifest: Digest }> {
  const { draft, parent, contents } = version;
  const manifest: VersionManifest = {
    format: 1,
    appliance: version.name,
    version: nextVersion(parent),
    parent: parent === undefined ? null : { version: parent.manifest.version, manifest: parent.digest },
    createdAt: Math.floor(Date.now() / 1000),
    title: draft.title,
    notes: draft.notes,
    machine: draft.machine,
    disks: draft.disks.map(
      ({ description }) =>
        contents.find((content) => content.description.name === description.name)?.description ?? description,
    ),
  };
  const envelope = signEnvelope({
    payloadType: PAYLOAD_TYPES.version,
    payload: encodeVersionManifest(manifest),
    signers: [version.key],
  });
  return version.session.client.call('commitUpload', { params: { upload }, body: envelope, signal: version.signal });
}

const nextVersion = (parent: VerifiedVersion | undefined): number => (parent?.manifest.version ?? 0) + 1;

const explainConflict =
  (name: string) =>
  (error: unknown): never => {
    if (!hasCode(error, 'conflict')) throw error;
    throw new CollectiveError(
      'conflict',
      `Another publisher has made a version of ${name} in the meantime (${error.message}). Nothing of yours was published. Look at it (collective appliances), then publish again: what was sent already is not sent again.`,
      { cause: error },
    );
  };

const sum = <T>(items: readonly T[], of: (item: T) => number): number =>
  items.reduce((total, item) => total + of(item), 0);
