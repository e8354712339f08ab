/** One agent a home: a lock that dies with the process (storage/local-lock.ts), with a message that says what is locked. */
import { CollectiveError, hasCode } from '@collective/shared';
import type { FileLock } from '../storage/file-system.js';
import { takeLocalLock } from '../storage/local-lock.js';
import type { Home } from '../home.js';

/** Errors: `in-use` when another agent has this home. */
export async function takeHomeLock(home: Pick<Home, 'agentLock' | 'directory'>): Promise<FileLock> {
  try {
    return await takeLocalLock(home.agentLock);
  } catch (error) {
    if (!hasCode(error, 'in-use')) throw error;
    throw new CollectiveError('in-use', `Another agent is using the home ${home.directory}.`, {
      cause: error,
      data: { home: home.directory },
    });
  }
}
