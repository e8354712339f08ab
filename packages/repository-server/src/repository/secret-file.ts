/** Small secrets as files: 32 bytes, base64url text, 0600, in a 0700 folder. Made once, never replaced. */
import { CollectiveError } from '@collective/shared';
import { type DurableFiles } from '../storage/durable-file.js';
import { type FileSystem } from '../storage/file-system.js';

const SECRET = /^[A-Za-z0-9_-]{43}$/;

export const createSecretFile = async (files: DurableFiles, path: string, secret: Buffer): Promise<void> => {
  const bytes = Buffer.from(`${secret.toString('base64url')}\n`, 'ascii');
  if (!(await files.create(path, bytes, { mode: 0o600 }))) {
    throw new CollectiveError('exists', `${path} exists already`);
  }
};

/** Errors: `not-found`, `malformed`. */
export const readSecretFile = async (fileSystem: FileSystem, path: string): Promise<Buffer> => {
  const text = (await fileSystem.read(path))?.toString('ascii').trim();
  if (text === undefined) throw new CollectiveError('not-found', `${path} is missing`);
  if (!SECRET.test(text)) throw new CollectiveError('malformed', `${path} does not hold 32 bytes as base64url`);
  return Buffer.from(text, 'base64url');
};
