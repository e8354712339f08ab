/** Upload sessions of snapshot objects in SQLite. See the seam for what each method promises. */
import { digestBytes, digestFromBytes } from '@collective/shared';
import { type CatalogueDatabase } from './sqlite-database.js';
import { type SnapshotUpload, type Subscriptions } from './subscriptions.js';

type UploadRow = {
  id: string;
  account: string;
  subscription: string;
  device: Buffer;
  number: number;
  parent: number | null;
  parent_manifest: Buffer | null;
  created_at: number;
  expires_at: number;
  received_bytes: number;
  committed: Buffer | null;
};

export type SnapshotUploadMethods =
  | 'addSnapshotUpload'
  | 'snapshotUpload'
  | 'openSnapshotUploads'
  | 'snapshotUploadIds'
  | 'setReceivedBytes'
  | 'markSnapshotCommitted'
  | 'removeSnapshotUpload'
  | 'removeEndedSnapshotUploads';

export const sqliteSnapshotUploads = ({ full }: CatalogueDatabase): Pick<Subscriptions, SnapshotUploadMethods> => {
  const insert = full.prepare('insert into snapshot_uploads values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)');
  const select = full.prepare<[string], UploadRow>('select * from snapshot_uploads where id = ?');
  const selectOpen = full.prepare<[string], UploadRow>(
    'select * from snapshot_uploads where account = ? and committed is null order by created_at, id',
  );
  const selectIds = full.prepare<[], { id: string }>('select id from snapshot_uploads');
  const updateReceived = full.prepare(
    'update snapshot_uploads set received_bytes = ?, expires_at = ? where id = ? and received_bytes = ? and committed is null',
  );
  const updateCommitted = full.prepare('update snapshot_uploads set committed = ? where id = ?');
  const remove = full.prepare('delete from snapshot_uploads where id = ?');
  const removeEnded = full.prepare('delete from snapshot_uploads where expires_at <= ?');

  return {
    addSnapshotUpload: async (upload) => {
      insert.run(
        upload.id,
        upload.account,
        upload.subscription,
        digestBytes(upload.device),
        upload.number,
        upload.parent?.number ?? null,
        upload.parent === undefined ? null : digestBytes(upload.parent.manifest),
        upload.createdAt,
        upload.expiresAt,
        upload.receivedBytes,
        upload.committed === undefined ? null : digestBytes(upload.committed),
      );
    },
    snapshotUpload: async (id) => {
      const row = select.get(id);
      return row === undefined ? undefined : toUpload(row);
    },
    openSnapshotUploads: async (account) => selectOpen.all(account).map(toUpload),
    snapshotUploadIds: async () => new Set(selectIds.all().map(({ id }) => id)),
    setReceivedBytes: async (id, { from, to, expiresAt }) => updateReceived.run(to, expiresAt, id, from).changes > 0,
    markSnapshotCommitted: async (id, manifest) => {
      updateCommitted.run(digestBytes(manifest), id);
    },
    removeSnapshotUpload: async (id) => {
      remove.run(id);
    },
    removeEndedSnapshotUploads: async (now) => {
      removeEnded.run(now);
    },
  };
};

const toUpload = (row: UploadRow): SnapshotUpload => ({
  id: row.id,
  account: row.account,
  subscription: row.subscription,
  device: digestFromBytes(row.device),
  number: row.number,
  parent:
    row.parent === null || row.parent_manifest === null
      ? undefined
      : { number: row.parent, manifest: digestFromBytes(row.parent_manifest) },
  createdAt: row.created_at,
  expiresAt: row.expires_at,
  receivedBytes: row.received_bytes,
  committed: row.committed === null ? undefined : digestFromBytes(row.committed),
});
