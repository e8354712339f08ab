/**
 * The root keys: made by `init` in `root-keys/`, to be moved away from the server. Only trust files are signed with
 * them, on the command line; the serving process never reads them.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  CollectiveError,
  newSigningKeySeed,
  type SigningKey,
  signingKeyFromSeed,
  type TrustFile,
} from '@collective/shared';
import { isErrno, makeFolder } from '../storage/durable-file.js';
import { createSecretFile, readSecretFile } from './secret-file.js';

export const ROOT_KEYS = 3;
export const ROOT_THRESHOLD = 2;

/** Makes three keys in a new 0700 folder. */
export const createRootKeys = async (folder: string, tempFolder: string): Promise<SigningKey[]> => {
  await makeFolder(folder, 0o700);
  const keys: SigningKey[] = [];
  for (let number = 1; number <= ROOT_KEYS; number += 1) {
    const seed = newSigningKeySeed();
    await createSecretFile(join(folder, `root-${number}.key`), seed, tempFolder);
    keys.push(signingKeyFromSeed(seed));
  }
  return keys;
};

/** The keys in the folder that the trust file names, at least its threshold. Errors: `not-found`, `not-allowed`. */
export const readRootKeys = async (folder: string, trust: TrustFile): Promise<SigningKey[]> => {
  const keys: SigningKey[] = [];
  for (const name of await keyFileNames(folder)) {
    const key = signingKeyFromSeed(await readSecretFile(join(folder, name)));
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
  try {
    return (await readdir(folder)).filter((name) => name.endsWith('.key')).sort();
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error;
    throw new CollectiveError('not-found', `there is no folder ${folder} with root keys (--root-keys FOLDER)`);
  }
};
