/**
 * An upload session: what a publisher has sent so far. Chunks belong to the session from the moment they are durable;
 * until then they are only reserved, which keeps the collector away. "Lacking" is answered from the versions that the
 * asker may read and from the session alone, so that garbage and other people's blocks are asked for again. `readable` names the appliances that the asker may read; undefined: all.
 */
import {
  checkStoredChunk,
  CHUNK_BATCH_BYTES_FULL,
  CHUNK_PLAIN_BYTES_MAX,
  CollectiveError,
  decodeChangedPairs,
  decodeChunk,
  decodeChunkBatch,
  type ChunkRecord,
  type Digest,
  DiskMap,
  encodeChunk,
  MAP_KIND,
} from '@collective/shared';
import { type SizedChunk, type Upload } from '../catalogue/catalogue.js';
import { type Repository } from './repository.js';
import { readVersionFile } from './version-file.js';

export type StoredCount = { readonly stored: number; readonly known: number };

/** What neither the session nor a version that the asker may read has, in the order asked. */
export const lackingChunks = async (
  repository: Repository,
  upload: Upload,
  readable: readonly string[] | undefined,
  digests: readonly Digest[],
): Promise<Digest[]> => {
  const owned = await repository.catalogue.uploads.ownedChunks(upload.id, digests);
  const live = await repository.catalogue.versions.liveChunks(digests, readable);
  return digests.filter((digest) => !owned.has(digest) && !live.has(digest));
};

/**
 * Verifies a chunk batch whole, then makes its chunks durable and the session's. When it throws, nothing of the batch
 * is kept. Errors: `malformed`, `unknown-format`, `too-large`, `digest-mismatch`, `disk-full`.
 */
export const storeBatch = async (
  repository: Repository,
  upload: Upload,
  readable: readonly string[] | undefined,
  bytes: Uint8Array,
): Promise<StoredCount> => {
  const records = decodeChunkBatch(bytes);
  for (const [index, record] of records.entries()) {
    if (index % CHUNKS_PER_TURN === CHUNKS_PER_TURN - 1) await nextTurn();
    decodeChunk(record.chunk, { digest: record.digest, plainBytesMax: CHUNK_PLAIN_BYTES_MAX });
  }
  const lacking = new Set(
    await lackingChunks(
      repository,
      upload,
      readable,
      records.map(({ digest }) => digest),
    ),
  );
  const wanted = new Map(records.filter(({ digest }) => lacking.has(digest)).map((record) => [record.digest, record]));
  await storeChunks(repository, upload, [...wanted.values()]);
  return { stored: wanted.size, known: records.length - wanted.size };
};

/**
 * Rebuilds a disk's map from the list of changed pairs against `since` (undefined: all zero), stores its pages as the
 * session's, and remembers the disk's root. Errors: `malformed`, `too-large`, `not-found` when `since` has no such disk,
 * `block-missing` and others when its pages are damaged.
 */
export const setDisk = async (
  repository: Repository,
  upload: Upload,
  readable: readonly string[] | undefined,
  disk: { readonly name: string; readonly since: number | undefined; readonly pairs: Uint8Array },
): Promise<Digest> => {
  const pairs = decodeChangedPairs(disk.pairs);
  repository.maps.checkShape(pairs);
  if (pairs.columns.kinds.some((kind) => kind !== MAP_KIND.public && kind !== MAP_KIND.zero)) {
    throw new CollectiveError('malformed', `disk ${disk.name}: a version has only zero and public blocks`);
  }
  const base = await baseMap(repository, upload, disk, pairs);
  const { root, pages } = base.apply(pairs).build();
  const lacking = await lackingChunks(repository, upload, readable, [...pages.keys()]);
  let batch: ChunkRecord[] = [];
  let batchBytes = 0;
  for (const digest of lacking) {
    const page = pages.get(digest);
    if (page === undefined) continue;
    const chunk = encodeChunk(page);
    batch.push({ digest, chunk });
    batchBytes += chunk.length;
    if (batchBytes < CHUNK_BATCH_BYTES_FULL) continue;
    await storeChunks(repository, upload, batch);
    batch = [];
    batchBytes = 0;
  }
  await storeChunks(repository, upload, batch);
  const { diskBytes, blockBytes } = pairs;
  await repository.catalogue.uploads.setUploadDisk(upload.id, { disk: disk.name, root, diskBytes, blockBytes });
  return root;
};

const CHUNKS_PER_TURN = 16;

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A copy that may be changed. */
const baseMap = async (
  repository: Repository,
  upload: Upload,
  disk: { readonly name: string; readonly since: number | undefined },
  shape: { readonly diskBytes: number; readonly blockBytes: number },
): Promise<DiskMap> => {
  if (disk.since === undefined) return DiskMap.empty(shape);
  const record = await repository.catalogue.versions.version(upload.appliance, disk.since);
  const isThere = record !== undefined && record.state !== 'deleted' && record.state !== 'forgotten';
  const file = isThere ? await readVersionFile(repository.blobStore, upload.appliance, disk.since) : undefined;
  const older = file?.manifest.disks.find(({ name }) => name === disk.name);
  if (older === undefined) {
    throw new CollectiveError('not-found', `${upload.appliance}@${disk.since} has no disk ${disk.name}`);
  }
  return (await repository.maps.load(older)).clone();
};

// Reserved first, under the lock: from then on the collector's delete step leaves these names alone, so a garbage file
// of the same name cannot be deleted after it has been replaced. Names that live elsewhere (in appliances that the
// asker may not read) are written again: the same block, durable before it takes the name.
const storeChunks = async (repository: Repository, upload: Upload, records: readonly ChunkRecord[]): Promise<void> => {
  if (records.length === 0) return;
  const { blobStore, catalogue, clock, limits } = repository;
  const chunks: SizedChunk[] = records.map(({ digest, chunk }) => ({
    digest,
    chunkBytes: chunk.length,
    plainBytes: checkStoredChunk(chunk).plainBytes,
  }));
  const totals = await catalogue.uploads.uploadTotals(upload.id);
  const addedBytes = chunks.reduce((sum, chunk) => sum + chunk.chunkBytes, 0);
  if (totals.chunkBytes + addedBytes > limits.uploadBytesMax) {
    throw new CollectiveError(
      'too-large',
      `this upload has ${totals.chunkBytes} bytes; at most ${limits.uploadBytesMax} are allowed`,
    );
  }
  const digests = records.map(({ digest }) => digest);
  await catalogue.exclusively(() => catalogue.uploads.reserveChunks(upload.id, digests));
  await blobStore.storeChunks(records);
  await catalogue.uploads.keepChunks(upload.id, chunks, sessionEnd(upload, clock.nowSeconds(), limits));
};

/** When a session ends that was used now. */
export const sessionEnd = (
  upload: { readonly createdAt: number },
  now: number,
  limits: { readonly uploadIdleSeconds: number; readonly uploadAgeSecondsMax: number },
): number => Math.min(now + limits.uploadIdleSeconds, upload.createdAt + limits.uploadAgeSecondsMax);
