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
import { CollectiveError, isApplianceName, type DiskDescription, type DiskMap } from '@collective/shared';
import type { JobContext } from '../agent/agent-server.js';
import type { PublishReply, PublishRequest } from '../agent/agent-types.js';
import { loadDiskMap } from '../agent/disk-maps.js';
import type { VerifiedVersion } from '../agent/trust-client.js';
import { explainUpload } from './commit-manifest.js';
import { assertUnchanged, inspectImage, type DiskImage } from './disk-image.js';
import { ImageServer } from './image-bytes.js';
import { tellFirstTraces } from './first-traces.js';
import { mapImage } from './map-image.js';
import { allowedPublishingKey } from './publishing-key.js';
import { parseRecipe } from './recipe.js';
import {
  bootOnce,
  checkNextVersion,
  commitVersion,
  explainConflict,
  nameAccounts,
  sendContents,
  sum,
  type NewContent,
  type NewVersion,
  type PublishParts,
} from './send-version.js';
import { distinctBlocks } from './upload-plan.js';
import { openUpload } from './upload-session.js';
import { draftVersion, type DraftDisk, type VersionDraft } from './version-draft.js';
import { openWorkPool, type WorkPool } from './work-pool.js';

/** Errors: `bad-image`, `bad-machine`, `no-boot`, `not-allowed`, `conflict`, those of the repository. Nothing is published then, unless `data.undecided` is there. */
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
  const parent = isKnown ? await session.trust.released(name, source) : undefined;
  const draft = draftVersion({
    name,
    images,
    recipe,
    parent: parent?.manifest,
    title: request.title,
    notes: request.notes,
  });

  const pool = openWorkPool();
  const servers: ImageServer[] = [];
  try {
    const contents = await hashImages(draft, { parts, parent, pool, servers });
    const opened = await openUpload(
      { repository: session.device.repository.identity, appliance: name, parent: parent?.manifest.version ?? null },
      { uploadsDirectory: parts.home.uploadsDirectory, client: session.client, signal },
    ).catch(explainConflict(name));
    if (opened.isContinued) job.emit({ event: 'note', text: 'Continuing the upload that was interrupted.' });
    const { upload } = opened;
    const explain = async (error: unknown): Promise<never> => {
      throw await explainUpload(error, { name, upload, client: session.client, signal });
    };
    await sendContents(upload, contents, { parts, pool }).catch(explain);
    for (const image of images.values()) await assertUnchanged(image);
    const version = checkNextVersion(name, opened.nextVersion, parent?.manifest.version);
    const isCandidate = request.candidateFor !== undefined;
    const next: NewVersion = { name, version, draft, parent, base: parent, contents, isCandidate };
    const booted = request.bootTest ? await bootOnce(next, request, parts) : undefined;
    const committed = await commitVersion(upload, next, { key, session, signal })
      .catch(explainConflict(name))
      .catch(explain);
    await opened.forget();
    await tellFirstTraces(next, booted, parts);
    for (const { pages } of contents) await parts.objects.put('page', pages);
    if (request.candidateFor !== undefined) {
      const accounts = new Set([session.keys.account, ...request.candidateFor]);
      await nameAccounts({ appliance: name, ...committed }, [...accounts], { key, session, signal });
    }
    await session.refresh(signal);
    const { sentBytes, receivedBytes } = session.client.transferred;
    return {
      name,
      version: committed.version,
      manifest: committed.manifest,
      ...(isCandidate ? { candidate: true } : {}),
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
      source: server.source,
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
