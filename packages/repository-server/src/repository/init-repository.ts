/**
 * Makes a repository in an empty or missing folder: root keys, heads key, trust/1, the catalogue with an invitation for
 * the first administrator, and last the first heads.
 */
import { randomBytes } from 'node:crypto';
import { chmod } from 'node:fs/promises';
import {
  CollectiveError,
  type Digest,
  encodeTrustFile,
  newSigningKeySeed,
  PAYLOAD_TYPES,
  signEnvelope,
  signingKeyFromSeed,
} from '@collective/shared';
import { type Clock } from '../clock.js';
import { type Limits } from '../limits.js';
import { isAccountName, trustName } from '../storage/blob-names.js';
import { DurableFiles } from '../storage/durable-file.js';
import { localFileSystem } from '../storage/local-file-system.js';
import { inviteAccount, joinLinkFor } from './invite-account.js';
import { openRepository, repositoryPaths } from './open-repository.js';
import { assembleRepository } from './repository.js';
import { createRootKeys, ROOT_THRESHOLD } from './root-keys.js';
import { createSecretFile } from './secret-file.js';
import { type Settings, writeSettings } from './settings.js';
import { FolderBlobStore } from '../storage/folder-blob-store.js';

export type InitOptions = {
  readonly settings: Settings;
  /** Name of the first administrator's account. */
  readonly admin: string;
  readonly limits: Limits;
  readonly clock: Clock;
};

export type InitResult = { readonly identity: Digest; readonly joinLink: string; readonly rootKeysFolder: string };

/** Errors: `exists` when the folder is not empty, `usage` for a bad account name. */
export const initRepository = async (folder: string, options: InitOptions): Promise<InitResult> => {
  if (!isAccountName(options.admin)) throw new CollectiveError('usage', `${options.admin} is not an account name`);
  await refuseUsedFolder(folder);
  const files = new DurableFiles(localFileSystem, folder);
  await files.makeFolder(folder);
  const paths = repositoryPaths(folder);
  await files.makeFolder(paths.server, 0o700);
  await chmod(paths.server, 0o700);
  const blobStore = await FolderBlobStore.open(folder);
  const rootKeys = await createRootKeys(files, paths.rootKeys);
  const headsSeed = newSigningKeySeed();
  await createSecretFile(files, paths.headsKey, headsSeed);
  await createSecretFile(files, paths.nameSecret, randomBytes(32));
  await writeSettings(files, folder, options.settings);

  const now = options.clock.nowSeconds();
  const payload = encodeTrustFile({
    format: 1,
    number: 1,
    createdAt: now,
    rootKeys: rootKeys.map(({ publicKey }) => publicKey),
    rootThreshold: ROOT_THRESHOLD,
    headsKeys: [signingKeyFromSeed(headsSeed).publicKey],
    publishers: [],
    recount: [],
  });
  await blobStore.create(trustName(1), signEnvelope({ payloadType: PAYLOAD_TYPES.trust, payload, signers: rootKeys }));

  const open = await openRepository(folder);
  try {
    const { identity } = await assembleRepository({ ...open, limits: options.limits, clock: options.clock });
    const request = { account: options.admin, role: 'admin', appliances: [] } as const;
    const { token } = await inviteAccount(open.catalogue, request, { now, seconds: options.limits.invitationSeconds });
    return { identity, joinLink: joinLinkFor(options.settings, identity, token), rootKeysFolder: paths.rootKeys };
  } finally {
    await open.close();
  }
};

const refuseUsedFolder = async (folder: string): Promise<void> => {
  if ((await localFileSystem.list(folder)).length > 0) throw new CollectiveError('exists', `${folder} is not empty`);
};
