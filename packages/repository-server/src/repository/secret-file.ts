/** Small secrets as files: 32 bytes, base64url text, 0600, in a 0700 folder. Made once, never replaced. */
import { readFile } from 'node:fs/promises';
import { CollectiveError } from '@collective/shared';
import { createFile, isErrno } from '../storage/durable-file.js';

const SECRET = /^[A-Za-z0-9_-]{43}$/;

export const createSecretFile = async (path: string, secret: Buffer, tempFolder: string): Promise<void> => {
  const bytes = Buffer.from(`${secret.toString('base64url')}\n`, 'ascii');
  if (!(await createFile(path, bytes, { tempFolder, mode: 0o600 }))) {
    throw new CollectiveError('exists', `${path} exists already`);
  }
};

/** Errors: `not-found`, `malformed`. */
export const readSecretFile = async (path: string): Promise<Buffer> => {
  let text: string;
  try {
    text = (await readFile(path, 'ascii')).trim();
  } catch (error) {
    if (isErrno(error, 'ENOENT')) throw new CollectiveError('not-found', `${path} is missing`, { cause: error });
    throw error;
  }
  if (!SECRET.test(text)) throw new CollectiveError('malformed', `${path} does not hold 32 bytes as base64url`);
  return Buffer.from(text, 'base64url');
};
