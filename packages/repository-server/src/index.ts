export { buildApp, type App, type AppOptions } from './app.js';
export { type Clock, systemClock } from './clock.js';
export { DEFAULT_LIMITS, GRACE_SECONDS_DEFAULT, type Limits } from './limits.js';
export { initRepository, type InitOptions, type InitResult } from './repository/init-repository.js';
export { openRepository, type OpenRepository } from './repository/open-repository.js';
export { assembleRepository, type Repository, type RepositoryParts } from './repository/repository.js';
export { startServer, type RunningServer, type ServeOptions } from './server.js';
export { type BlobStore } from './storage/blob-store.js';
export { type Catalogue } from './catalogue/catalogue.js';

// What the simulation (test/simulation) drives as the routes do, and its doubles.
export { type Caller, readableAppliances } from './caller.js';
export {
  type People,
  type SizedChunk,
  type Uploads,
  type VersionRecord,
  type Versions,
} from './catalogue/catalogue.js';
export { type Subscriptions } from './catalogue/subscriptions.js';
export { SqliteCatalogue } from './catalogue/sqlite-catalogue.js';
export { housekeeping } from './housekeeping.js';
export { checkRepository } from './repository/check-repository.js';
export { collectGarbage } from './repository/collector.js';
export { commitSnapshot } from './repository/commit-snapshot.js';
export { commitVersion } from './repository/commit-version.js';
export { takeLease } from './repository/leases.js';
export { MapStore } from './repository/map-store.js';
export { openOwnUpload, openUpload, ownUpload } from './repository/own-upload.js';
export { lackingChunks, setDisk, storeBatch } from './repository/upload-session.js';
export { RETENTION_DEFAULT } from './repository/retention.js';
export { abandonSnapshotUpload, openSnapshotUpload, uploadPart } from './repository/snapshot-upload.js';
export { createSubscription } from './repository/subscriptions.js';
export { pinSnapshot, restoreSnapshot, thinSubscription } from './repository/thin-snapshots.js';
export { namedChunks } from './repository/version-chunks.js';
export { readStateFile, readVersionFile } from './repository/version-file.js';
export { changeVersionState } from './repository/version-state.js';
export { HEADS, keysName, trustName } from './storage/blob-names.js';
export { ChunkMemory } from './storage/chunk-memory.js';
export { type FileStat, type FileSystem, type FolderEntry, type OpenFile } from './storage/file-system.js';
export { FolderBlobStore } from './storage/folder-blob-store.js';
export { MemoryCatalogue, MemoryTables } from './testing/memory-catalogue.js';

// A repository in memory with people and an appliance, for tests of what talks to one.
export { snapshotDataName } from './storage/blob-names.js';
export {
  privateChunkOf,
  TestBackup,
  userMapOf,
  type MadeSnapshot,
  type StoredRecord,
  type UserPlan,
} from './testing/test-backup.js';
export { blockOf, BLOCK_BYTES, mapOf, signManifest, systemManifest, type DiskPlan } from './testing/test-publisher.js';
export { newKey, TestRepository, type TestPerson } from './testing/test-repository.js';
export {
  INITIAL,
  openSubscriber,
  publishWithUserDisk,
  publishWithUserDisks,
  SUBSCRIPTION,
  type Subscriber,
} from './testing/test-subscriber.js';
