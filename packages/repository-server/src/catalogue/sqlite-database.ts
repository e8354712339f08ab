/**
 * The catalogue's SQLite file and its schema. Two connections: `full` syncs at each commit (what is acknowledged),
 * `relaxed` does not (what the next full commit or a repetition makes good). Both write one log in order, so a crash
 * loses a tail, never a middle. Better-sqlite3 is synchronous: within a process no two transactions overlap.
 */
import { closeSync, openSync } from 'node:fs';
import Database from 'better-sqlite3';
import { CollectiveError } from '@collective/shared';

const BUSY_TIMEOUT_MS = 5_000;

const SCHEMA = `
create table counters (name text primary key, value integer not null) without rowid;
insert into counters values ('collections', 0);
create table accounts (
  name text primary key, role text not null, created_at integer not null, revoked_at integer,
  password_parameters text not null, login_secret_hash blob not null, publishing_key text
) without rowid;
create table access (
  account text not null, appliance text not null, access text not null, primary key (account, appliance)
) without rowid;
create table invitations (
  token_hash blob primary key, account text not null, role text not null, appliances text not null,
  created_at integer not null, expires_at integer not null
) without rowid;
create table devices (
  id blob primary key, account text not null references accounts (name), public_key text not null, name text not null,
  created_at integer not null, last_seen_at integer, revoked_at integer, certificate blob not null
) without rowid;
create index devices_by_account on devices (account);
create table tokens (
  hash blob primary key, account text not null references accounts (name), device blob references devices (id),
  scope text not null, expires_at integer not null
) without rowid;
create table nonces (hash blob primary key, device blob not null, expires_at integer not null);
create index nonces_by_device on nonces (device);
create table versions (
  appliance text not null, version integer not null, manifest blob not null, created_at integer not null,
  title text not null, chunk_bytes integer not null, state text not null, state_since integer not null,
  indexed integer not null, primary key (appliance, version)
) without rowid;
create table appliance_numbers (number integer primary key, name text not null unique);
create table live_chunks (
  digest blob not null, appliance integer not null, chunk_bytes integer not null, plain_bytes integer not null,
  primary key (digest, appliance)
) without rowid;
create table uploads (
  id text primary key, appliance text not null, account text not null references accounts (name), parent integer,
  created_at integer not null, expires_at integer not null, version integer, manifest blob
) without rowid;
create table upload_chunks (
  digest blob not null, upload text not null references uploads (id) on delete cascade,
  chunk_bytes integer not null, plain_bytes integer not null, durable integer not null, primary key (digest, upload)
) without rowid;
create index upload_chunks_by_upload on upload_chunks (upload);
create table upload_disks (
  upload text not null references uploads (id) on delete cascade, disk text not null, root blob not null,
  disk_bytes integer not null, block_bytes integer not null, primary key (upload, disk)
) without rowid;
`;

const SUBSCRIPTIONS = `
create table subscriptions (
  account text not null, id text not null, appliance text not null, created_at integer not null, state text not null,
  state_since integer not null, lease_number integer not null, lease integer, device blob, taken_at integer,
  heartbeat_at integer, unsaved_bytes integer, is_running integer, is_released integer, primary key (account, id)
) without rowid;
create table snapshots (
  sequence integer primary key autoincrement, account text not null, subscription text not null, number integer not null,
  manifest blob not null, created_at integer not null, committed_at integer not null, reason text not null,
  added_bytes integer not null, pinned integer not null, state text not null, state_since integer not null,
  unique (account, subscription, number)
);
create index snapshots_by_state on snapshots (account, subscription, state, number);
create index pending_snapshots on snapshots (sequence) where state = 'pending';
create table snapshot_uploads (
  id text primary key, account text not null, subscription text not null, device blob not null, number integer not null,
  parent integer, parent_manifest blob, created_at integer not null, expires_at integer not null,
  received_bytes integer not null, committed blob
) without rowid;
`;

const DEVICE_BASES = `
create table device_bases (
  account text not null, subscription text not null, device blob not null, number integer not null,
  primary key (account, subscription, device)
) without rowid;
`;

/** Schema n + 1 is what the first n steps and this one make. A step that has been released never changes. */
const STEPS: readonly string[] = [SCHEMA, SUBSCRIPTIONS, DEVICE_BASES];
export const SCHEMA_VERSION = STEPS.length;

export type CatalogueDatabase = { readonly full: Database.Database; readonly relaxed: Database.Database };

/** Opens the file, making it or bringing it up to date. Errors: `unknown-format` for a later schema version. */
export const openCatalogueDatabase = (path: string): CatalogueDatabase => {
  // Nobody else may read hashes and names; SQLite gives its log the mode of the file.
  closeSync(openSync(path, 'a', 0o600));
  const full = connect(path, 'FULL');
  try {
    prepareSchema(full, path);
    return { full, relaxed: connect(path, 'NORMAL') };
  } catch (error) {
    full.close();
    throw error;
  }
};

const connect = (path: string, synchronous: 'FULL' | 'NORMAL'): Database.Database => {
  const database = new Database(path, { timeout: BUSY_TIMEOUT_MS });
  database.pragma('journal_mode = WAL');
  database.pragma(`synchronous = ${synchronous}`);
  database.pragma('foreign_keys = ON');
  return database;
};

const prepareSchema = (database: Database.Database, path: string): void => {
  const prepare = database.transaction(() => {
    const found = database.pragma('user_version', { simple: true });
    if (found === SCHEMA_VERSION) return;
    if (typeof found !== 'number' || found > SCHEMA_VERSION) {
      throw new CollectiveError(
        'unknown-format',
        `${path}: catalogue schema ${String(found)}, this program knows ${SCHEMA_VERSION}`,
      );
    }
    for (const step of STEPS.slice(found)) database.exec(step);
    database.pragma(`user_version = ${SCHEMA_VERSION}`);
  });
  prepare.immediate();
};
