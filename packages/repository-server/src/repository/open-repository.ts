/**
 * A repository folder (docs/formats/repository.md) with its seams open. Several processes may have it open: the command
 * line works beside the server, because what matters happens under the catalogue's lock.
 */
import { join } from 'node:path';
import { signingKeyFromSeed } from '@collective/shared';
import { SqliteCatalogue } from '../catalogue/sqlite-catalogue.js';
import { DurableFiles } from '../storage/durable-file.js';
import { FolderBlobStore } from '../storage/folder-blob-store.js';
import { localFileSystem } from '../storage/local-file-system.js';
import { type ServerKeys } from './repository.js';
import { readRetentionFile, type Retention } from './retention-file.js';
import { readSecretFile } from './secret-file.js';
import { readSettings, type Settings } from './settings.js';

export type OpenRepository = {
  readonly folder: string;
  readonly files: DurableFiles;
  readonly blobStore: FolderBlobStore;
  readonly catalogue: SqliteCatalogue;
  readonly keys: ServerKeys;
  readonly settings: Settings;
  /** What the administrator has set, as of now; undefined: nothing. Errors: `malformed`. */
  readonly readRetention: () => Promise<Retention | undefined>;
  close(): Promise<void>;
};

export const repositoryPaths = (
  folder: string,
): Readonly<
  Record<'server' | 'temp' | 'rootKeys' | 'headsKey' | 'nameSecret' | 'database' | 'lock' | 'serving', string>
> => ({
  server: join(folder, 'server'),
  temp: join(folder, 'tmp'),
  rootKeys: join(folder, 'root-keys'),
  headsKey: join(folder, 'server', 'heads.key'),
  nameSecret: join(folder, 'server', 'name.secret'),
  database: join(folder, 'catalogue.sqlite'),
  lock: join(folder, 'server', 'lock.sqlite'),
  serving: join(folder, 'server', 'serving.sqlite'),
});

/** Errors: `not-found` when there is no repository, `unknown-format` for a catalogue of another schema. */
export const openRepository = async (folder: string): Promise<OpenRepository> => {
  const paths = repositoryPaths(folder);
  const settings = await readSettings(localFileSystem, folder);
  const keys = {
    heads: signingKeyFromSeed(await readSecretFile(localFileSystem, paths.headsKey)),
    nameSecret: await readSecretFile(localFileSystem, paths.nameSecret),
  };
  const blobStore = await FolderBlobStore.open(folder);
  const catalogue = await SqliteCatalogue.open({ database: paths.database, lock: paths.lock });
  const files = new DurableFiles(localFileSystem, folder);
  const readRetention = (): Promise<Retention | undefined> => readRetentionFile(localFileSystem, folder);
  return { folder, files, blobStore, catalogue, keys, settings, readRetention, close: () => catalogue.close() };
};
