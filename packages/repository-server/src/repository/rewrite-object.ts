/**
 * An object of which most is named by nothing any more, written again without that: the same name, the records that stay
 * under their digests. It is written beside the old one, as an upload of nobody, and takes its place under the lock; who
 * has the old one open goes on reading it.
 */
import { randomBytes } from 'node:crypto';
import { type Digest, SNAPSHOT_PART_BYTES_MAX, SnapshotObjectWriter } from '@collective/shared';
import { type SnapshotRecord } from '../catalogue/subscriptions.js';
import { snapshotDataName, uploadName } from '../storage/blob-names.js';
import { type Repository } from './repository.js';
import { SnapshotObjectFile } from './snapshot-object-file.js';
import { sessionEnd } from './upload-session.js';

/** Less than this part of the chunks' bytes is named. */
const LIVE_PART_MIN = 0.5;

export type RewrittenObject = {
  readonly upload: string;
  /** Of the object that it is made from. */
  readonly indexDigest: Digest;
  readonly oldBytes: number;
  readonly newBytes: number;
  /** What was left out. */
  readonly dropped: ReadonlySet<Digest>;
};

/** Undefined when the object is good as it is. Errors: those of a damaged object, `disk-full`. */
export const rewriteObject = async (
  repository: Repository,
  record: SnapshotRecord,
  named: ReadonlySet<Digest>,
): Promise<RewrittenObject | undefined> => {
  const object = await openObject(repository, record);
  if (object === undefined) return undefined;
  try {
    const dropped = new Set<Digest>();
    let [chunkBytes, liveBytes] = [0, 0];
    for (const [digest, place] of object.index.entries()) {
      chunkBytes += place.chunkBytes;
      if (named.has(digest)) liveBytes += place.chunkBytes;
      else dropped.add(digest);
    }
    if (liveBytes >= chunkBytes * LIVE_PART_MIN) return undefined;
    const upload = await beginUpload(repository, record);
    const newBytes = await copyRecords(repository, object, { upload, dropped });
    return { upload, indexDigest: object.indexDigest, oldBytes: object.byteLength, newBytes, dropped };
  } finally {
    await object.close();
  }
};

/**
 * Puts it in its place. Under the lock, after `named` has taken in every snapshot that there is: false when one of them
 * names what was left out, or the object has been rewritten by another collector. Ends the upload in any case.
 */
export const placeRewritten = async (
  repository: Repository,
  record: SnapshotRecord,
  made: RewrittenObject,
  named: ReadonlySet<Digest>,
): Promise<boolean> => {
  const { catalogue, blobStore } = repository;
  const isStillRight = [...made.dropped].every((digest) => !named.has(digest));
  const object = isStillRight ? await openObject(repository, record) : undefined;
  await object?.close();
  const isSame = object?.indexDigest === made.indexDigest;
  if (isSame) {
    // Durable before the old one goes: a commit that checked before must check again.
    await catalogue.versions.beginCollection();
    await blobStore.adopt(uploadName(made.upload), snapshotDataName(record, record.number));
  }
  await blobStore.remove(uploadName(made.upload));
  await catalogue.subscriptions.removeSnapshotUpload(made.upload);
  return isSame;
};

const openObject = (
  { blobStore, limits }: Repository,
  record: SnapshotRecord,
): Promise<SnapshotObjectFile | undefined> =>
  SnapshotObjectFile.open(blobStore, snapshotDataName(record, record.number), {
    recordsMax: limits.snapshotRecordsMax,
  });

/** A session that nobody can add to, because it counts as committed: so the file is not taken for a stray one. */
const beginUpload = async ({ catalogue, clock, limits }: Repository, record: SnapshotRecord): Promise<string> => {
  const now = clock.nowSeconds();
  const id = randomBytes(16).toString('hex');
  await catalogue.subscriptions.addSnapshotUpload({
    account: record.account,
    subscription: record.subscription,
    id,
    device: record.manifest,
    number: record.number,
    parent: undefined,
    createdAt: now,
    expiresAt: sessionEnd({ createdAt: now }, now, limits),
    receivedBytes: 0,
    committed: record.manifest,
  });
  return id;
};

const copyRecords = async (
  { blobStore }: Repository,
  object: SnapshotObjectFile,
  to: { readonly upload: string; readonly dropped: ReadonlySet<Digest> },
): Promise<number> => {
  const writer = new SnapshotObjectWriter();
  let pieces: Buffer[] = [writer.head];
  let pieceBytes = writer.head.length;
  let byteOffset = 0;
  const flush = async (): Promise<void> => {
    await blobStore.writePart(uploadName(to.upload), Buffer.concat(pieces), byteOffset);
    byteOffset += pieceBytes;
    [pieces, pieceBytes] = [[], 0];
  };
  const write = async (bytes: Buffer): Promise<void> => {
    pieces.push(bytes);
    pieceBytes += bytes.length;
    if (pieceBytes >= SNAPSHOT_PART_BYTES_MAX) await flush();
  };
  for (const [digest, place] of object.index.inFileOrder()) {
    if (to.dropped.has(digest)) continue;
    await object.header(place);
    await write(Buffer.from(await object.chunk(place)));
    writer.add(digest, place.chunkBytes);
  }
  await write(writer.finish());
  if (pieceBytes > 0) await flush();
  return byteOffset;
};
