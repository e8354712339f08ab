/**
 * The root keys: made by `init` in `root-keys/`, to be moved away from the server. Only trust files are signed with
 * them, on the command line; the serving process never reads them.
 */
import { join } from 'node:path';
import {
  CollectiveError,
  newSigningKeySeed,
  type SigningKey,
  signingKeyFromSeed,
  type TrustFile,
} from '@collective/shared';
import { type DurableFiles } from '../storage/durable-file.js';
import { localFileSystem } from '../storage/local-file-system.js';
import { createSecretFile, readSecretFile } from './secret-file.js';

export const ROOT_KEYS = 3;
export const ROOT_THRESHOLD = 2;

/** Makes three keys in a new 0700 folder. */
export const createRootKeys = async (files: DurableFiles, folder: string): Promise<SigningKey[]> => {
  await files.makeFolder(folder, 0o700);
  const keys: SigningKey[] = [];
  for (let number = 1; number <= ROOT_KEYS; number += 1) {
    const seed = newSigningKeySeed();
    await createSecretFile(files, join(folder, `root-${number}.key`), seed);
    keys.push(signingKeyFromSeed(seed));
  }
  return keys;
};

/** The keys in the folder that the trust file names, at least its threshold. Errors: `not-found`, `not-allowed`. */
export const readRootKeys = async (folder: string, trust: TrustFile): Promise<SigningKey[]> => {
  const keys: SigningKey[] = [];
  for (const name of await keyFileNames(folder)) {
    const key = signingKeyFromSeed(await readSecretFile(localFileSystem, join(folder, name)));
    if (trust.rootKeys.includes(key.publicKey)) keys.push(key);
  }
  if (keys.length < trust.rootThreshold) {
    throw new CollectiveError(
      'not-allowed',
      `${folder} holds ${keys.length} of the root keys of trust/${trust.number}; ${trust.rootThreshold} are needed (--root-keys FOLDER)`,
    );
  }
  return keys;
};

const keyFileNames = async (folder: string): Promise<string[]> => {
  if ((await localFileSystem.stat(folder)) === undefined)
    throw new CollectiveError('not-found', `there is no folder ${folder} with root keys (--root-keys FOLDER)`);
  const names = (await localFileSystem.list(folder)).map(({ name }) => name);
  return names.filter((name) => name.endsWith('.key')).sort();
};
