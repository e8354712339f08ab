/**
 * The catalogue in one SQLite file (WAL), with a second small file beside it as the lock between processes, so that
 * `invite`, `trust`, `check` and `gc` work on the folder of a running server.
 */
import { FileLock } from '../storage/file-lock.js';
import { type Catalogue, type People, type Uploads, type Versions } from './catalogue.js';
import { type CatalogueDatabase, openCatalogueDatabase } from './sqlite-database.js';
import { sqlitePeople } from './sqlite-people.js';
import { sqliteSubscriptions } from './sqlite-subscriptions.js';
import { sqliteUploads } from './sqlite-uploads.js';
import { sqliteVersions } from './sqlite-versions.js';
import { type Subscriptions } from './subscriptions.js';

const LOCK_WAIT_MS_MAX = 60_000;

export class SqliteCatalogue implements Catalogue {
  readonly people: People;
  readonly versions: Versions;
  readonly uploads: Uploads;
  readonly subscriptions: Subscriptions;
  readonly #database: CatalogueDatabase;
  readonly #lock: FileLock;
  #closed = false;

  private constructor(database: CatalogueDatabase, lock: FileLock) {
    this.#database = database;
    this.#lock = lock;
    this.people = sqlitePeople(database);
    this.versions = sqliteVersions(database);
    this.uploads = sqliteUploads(database);
    this.subscriptions = sqliteSubscriptions(database);
  }

  /** Errors: `unknown-format` when the file is of another schema version. */
  static async open(paths: { readonly database: string; readonly lock: string }): Promise<SqliteCatalogue> {
    const database = openCatalogueDatabase(paths.database);
    return new SqliteCatalogue(database, FileLock.open(paths.lock, { waitMsMax: LOCK_WAIT_MS_MAX }));
  }

  async exclusively<T>(step: () => Promise<T>): Promise<T> {
    return this.#lock.hold(step);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#lock.close();
    this.#database.relaxed.close();
    this.#database.full.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
