/** Upload sessions and the chunks that they hold, in SQLite. See the seam for what each method promises. */
import { type Digest, digestBytes, digestFromBytes } from '@collective/shared';
import Database from 'better-sqlite3';
import { endedUpload, type SizedChunk, type Upload, type UploadDisk, type Uploads } from './catalogue.js';
import { inSlices } from './slices.js';
import { type CatalogueDatabase } from './sqlite-database.js';

type UploadRow = {
  id: string;
  appliance: string;
  account: string;
  parent: number | null;
  created_at: number;
  expires_at: number;
  version: number | null;
  manifest: Buffer | null;
};
type DiskRow = { disk: string; root: Buffer; disk_bytes: number; block_bytes: number };

export const sqliteUploads = ({ full, relaxed }: CatalogueDatabase): Uploads => {
  const insertUpload = full.prepare('insert into uploads values (?, ?, ?, ?, ?, ?, null, null)');
  const selectUpload = full.prepare<[string], UploadRow>('select * from uploads where id = ?');
  const selectUploads = full.prepare<[], UploadRow>('select * from uploads order by created_at, id');
  const deleteUpload = full.prepare('delete from uploads where id = ?');
  const deleteEnded = full.prepare('delete from uploads where expires_at <= ?');
  const updateCommitted = full.prepare('update uploads set version = ?, manifest = ? where id = ?');
  const deleteChunks = full.prepare('delete from upload_chunks where upload = ?');
  const deleteDisks = full.prepare('delete from upload_disks where upload = ?');
  const insertReserved = relaxed.prepare('insert or ignore into upload_chunks values (?, ?, 0, 0, 0)');
  const upsertKept = full.prepare('insert or replace into upload_chunks values (?, ?, ?, ?, 1)');
  const updateExpiry = full.prepare('update uploads set expires_at = ? where id = ?');
  const selectOwned = full.prepare<[Buffer, string], { chunk_bytes: number; plain_bytes: number }>(
    'select chunk_bytes, plain_bytes from upload_chunks where digest = ? and upload = ? and durable = 1',
  );
  const selectTotals = full.prepare<[string], { chunks: number; chunk_bytes: number }>(
    'select count(*) as chunks, coalesce(sum(chunk_bytes), 0) as chunk_bytes from upload_chunks where upload = ? and durable = 1',
  );
  const selectReserved = full.prepare<[Buffer], unknown>('select 1 from upload_chunks where digest = ? limit 1');
  const upsertDisk = full.prepare('insert or replace into upload_disks values (?, ?, ?, ?, ?)');
  const selectDisks = full.prepare<[string], DiskRow>('select * from upload_disks where upload = ? order by disk');

  const reserve = relaxed.transaction((upload: string, digests: readonly Digest[]) => {
    for (const digest of digests) insertReserved.run(digestBytes(digest), upload);
  });
  const keep = full.transaction((upload: string, chunks: readonly SizedChunk[], expiresAt: number) => {
    for (const { digest, chunkBytes, plainBytes } of chunks) {
      upsertKept.run(digestBytes(digest), upload, chunkBytes, plainBytes);
    }
    updateExpiry.run(expiresAt, upload);
  });
  const markCommitted = full.transaction((id: string, version: number, manifest: Digest) => {
    updateCommitted.run(version, digestBytes(manifest), id);
    deleteChunks.run(id);
    deleteDisks.run(id);
  });

  return {
    addUpload: async ({ id, appliance, account, parent, createdAt, expiresAt }) => {
      insertUpload.run(id, appliance, account, parent ?? null, createdAt, expiresAt);
    },
    upload: async (id) => {
      const row = selectUpload.get(id);
      return row === undefined ? undefined : toUpload(row);
    },
    openUploads: async () =>
      selectUploads
        .all()
        .map(toUpload)
        .filter((upload) => upload.committed === undefined),
    removeUpload: async (id) => {
      deleteUpload.run(id);
    },
    removeEnded: async (now) => {
      deleteEnded.run(now);
    },
    markCommitted: async (id, { version, manifest }) => markCommitted.immediate(id, version, manifest),
    reserveChunks: async (upload, digests) => whileItLasts(() => reserve.immediate(upload, digests)),
    keepChunks: async (upload, chunks, expiresAt) => whileItLasts(() => keep.immediate(upload, chunks, expiresAt)),
    ownedChunks: async (upload, digests) => {
      const owned = new Map<Digest, SizedChunk>();
      await inSlices(digests, (slice) => {
        for (const digest of slice) {
          const row = selectOwned.get(digestBytes(digest), upload);
          if (row === undefined) continue;
          owned.set(digest, { digest, chunkBytes: row.chunk_bytes, plainBytes: row.plain_bytes });
        }
      });
      return owned;
    },
    uploadTotals: async (upload) => {
      const row = selectTotals.get(upload);
      return { chunks: row?.chunks ?? 0, chunkBytes: row?.chunk_bytes ?? 0 };
    },
    reservedChunks: async (digests) => {
      const reserved = new Set<Digest>();
      await inSlices(digests, (slice) => {
        for (const digest of slice) if (selectReserved.get(digestBytes(digest)) !== undefined) reserved.add(digest);
      });
      return reserved;
    },
    setUploadDisk: async (upload, { disk, root, diskBytes, blockBytes }) => {
      whileItLasts(() => upsertDisk.run(upload, disk, digestBytes(root), diskBytes, blockBytes));
    },
    uploadDisks: async (upload) => selectDisks.all(upload).map(toDisk),
  };
};

/** The rows that a session holds refer to it. Errors: `not-found` when it has ended. */
const whileItLasts = (change: () => unknown): void => {
  try {
    change();
  } catch (error) {
    if (error instanceof Database.SqliteError && error.code === 'SQLITE_CONSTRAINT_FOREIGNKEY')
      throw endedUpload(error);
    throw error;
  }
};

const toUpload = (row: UploadRow): Upload => ({
  id: row.id,
  appliance: row.appliance,
  account: row.account,
  parent: row.parent ?? undefined,
  createdAt: row.created_at,
  expiresAt: row.expires_at,
  committed:
    row.version === null || row.manifest === null
      ? undefined
      : { version: row.version, manifest: digestFromBytes(row.manifest) },
});

const toDisk = (row: DiskRow): UploadDisk => ({
  disk: row.disk,
  root: digestFromBytes(row.root),
  diskBytes: row.disk_bytes,
  blockBytes: row.block_bytes,
});
