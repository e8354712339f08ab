/** Errors of this machine's medium, told apart from the repository's: with `data.local`. Everything else comes back as it was. */
import { CollectiveError } from '@collective/shared';
import { localError } from '../storage/local-file.js';

export const localFailure = (error: unknown, path: string): unknown => {
  if (!(error instanceof Error) || !('errno' in error) || !('syscall' in error)) return error;
  const { code, message } = localError(error, path);
  return new CollectiveError(code === 'disk-full' ? code : 'local-io', message, {
    cause: error,
    data: { local: true },
  });
};

/** The same for what the block path says: its disk is this machine's. */
export const ofThisMachine = (error: unknown): unknown =>
  error instanceof CollectiveError && (error.code === 'disk-full' || error.code === 'local-io')
    ? new CollectiveError(error.code, error.message, { cause: error, data: { ...error.data, local: true } })
    : error;
