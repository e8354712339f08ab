/**
 * A start that finds the local disk full says how much is missing. What it had not finished by then is either whole or not there (every
 * file is replaced as a whole, and a seal that failed is covered by the next one), so the machine is what it was.
 */
import { statfs } from 'node:fs/promises';
import { CollectiveError } from '@collective/shared';
import { megabytes } from '../megabytes.js';
import { isNoRoom } from '../storage/durable-file.js';

/** A new layer with the first of its maps, and the base file and maps of a commit, take less on the local disk. */
export const START_BYTES_A_DISK = 1_048_576;
/** The files of the machine itself, each once more while it is replaced. */
export const START_BYTES = 1_048_576;

export type RoomWanted = {
  /** On the file system that is meant. */
  readonly folder: string;
  /** For people. */
  readonly what: string;
  /** Looked at when `work` has failed. */
  readonly neededBytes: number;
  readonly freeBytes?: (folder: string) => Promise<number>;
};

/**
 * `work`; when the local disk is full in it, the error says what is missing. Errors: `disk-full` (data: neededBytes, freeBytes,
 * missingBytes, local), those of `work`. The repository's `disk-full` stays what it is.
 */
export async function withRoom<T>(wanted: RoomWanted, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw isLocalFull(error) && !isSaid(error) ? await full(wanted, error) : error;
  }
}

async function full({ folder, what, neededBytes, freeBytes = freeOn }: RoomWanted, cause: unknown): Promise<unknown> {
  const free = await freeBytes(folder).catch(() => undefined);
  if (free === undefined) return cause;
  // What failed took some with it, or the person has a quota: what is free is then not what they may have.
  const missingBytes = free < neededBytes ? neededBytes - free : neededBytes;
  const missing =
    free < neededBytes
      ? `${what} needs ${megabytes(neededBytes)} in ${folder}, ${megabytes(free)} are free; ${megabytes(missingBytes)} (${String(missingBytes)} bytes) are missing.`
      : `${what} failed for want of room (${cause instanceof Error ? cause.message : String(cause)}), though ${megabytes(free)} are free in ${folder}: another disk is meant, or you may not have more of this one.`;
  return new CollectiveError(
    'disk-full',
    `The local disk is full: ${missing} Nothing is lost: your disks are as they were, and can be started when there is room.`,
    { cause, data: { local: true, neededBytes, freeBytes: free, missingBytes } },
  );
}

/** By whoever knows more about what is needed. */
const isSaid = (error: unknown): boolean => error instanceof CollectiveError && 'missingBytes' in error.data;

/** Of the file system, or of the block path, which says path and number of the error. */
const isLocalFull = (error: unknown): boolean =>
  isNoRoom(error) ||
  (error instanceof CollectiveError &&
    error.code === 'disk-full' &&
    (error.data['local'] === true || typeof error.data['errno'] === 'string'));

const freeOn = async (folder: string): Promise<number> => {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
};
