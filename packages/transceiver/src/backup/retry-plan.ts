/**
 * What a failed step means, and when it is tried again. Pure. An outage is no error: what is here stays here, and goes on
 * by itself.
 */
import { CollectiveError } from '@collective/shared';
import { isAway } from '../agent/repository-access.js';

export type TroubleKind =
  /** The repository or the network is away, or nobody is logged in. */
  | 'away'
  /** The block daemon has ended, or was started again and has not opened the disk yet: that takes a second or two. */
  | 'blockd-away'
  /** The repository's disk is full. */
  | 'repository-full'
  /** The local disk is full: machines go first. */
  | 'local-full'
  /** Something that waiting may not mend. */
  | 'failed';

const SECOND = 1_000;
const PLAN: Readonly<Record<TroubleKind, { readonly firstMs: number; readonly mostMs: number }>> = {
  away: { firstMs: 2 * SECOND, mostMs: 60 * SECOND },
  'blockd-away': { firstMs: 0.5 * SECOND, mostMs: 5 * SECOND },
  'repository-full': { firstMs: 60 * SECOND, mostMs: 600 * SECOND },
  'local-full': { firstMs: 30 * SECOND, mostMs: 300 * SECOND },
  failed: { firstMs: 30 * SECOND, mostMs: 1_800 * SECOND },
};

export const troubleOf = (error: unknown): TroubleKind => {
  if (!(error instanceof CollectiveError)) return 'failed';
  if (error.code === 'disk-full') return error.data['local'] === true ? 'local-full' : 'repository-full';
  if (error.data['isBlockd'] === true) return 'blockd-away';
  if (isAway(error) || ['wrong-offset', 'not-logged-in', 'token-expired'].includes(error.code)) return 'away';
  return 'failed';
};

/** `failures`: in a row, from 1. `random`: 0 to 1; two machines do not come back at the same moment. */
export const retryAfterMs = (kind: TroubleKind, failures: number, random: number): number => {
  const { firstMs, mostMs } = PLAN[kind];
  const full = Math.min(mostMs, firstMs * 2 ** Math.min(20, failures - 1));
  return Math.round(full * (0.75 + 0.25 * random));
};
