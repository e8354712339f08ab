/** Where a person's data is, in words: "saved 20 s ago", "12 MB still here". */
import type { DataStatus } from '../agent/data-types.js';
import { megabytes, timeOf } from './output.js';

/** `nowSeconds`: by this machine's clock. */
export function dataText({ savedAt, savedBy, unsavedBytes, activity, why }: DataStatus, nowSeconds: number): string {
  const saved = savedAt === null ? 'never saved' : `saved ${agoText(savedAt, nowSeconds)}`;
  const by = savedBy === null || savedBy === '' ? '' : ` by ${savedBy}`;
  const here = unsavedBytes === 0 ? '' : `, ${megabytes(unsavedBytes)} still here`;
  const now = activity === 'idle' ? '' : ` (${ACTIVITIES[activity]}${why === undefined ? '' : `: ${why}`})`;
  return `${saved}${by}${here}${now}`;
}

const ACTIVITIES = { saving: 'being saved', waiting: 'waits', apart: 'choose with collective continue' } as const;

/** A clock of the server that is ahead of ours is "just now". */
function agoText(atSeconds: number, nowSeconds: number): string {
  const seconds = nowSeconds - atSeconds;
  if (seconds < 2) return 'just now';
  if (seconds < 120) return `${String(seconds)} s ago`;
  if (seconds < 2 * 3600) return `${String(Math.round(seconds / 60))} min ago`;
  return timeOf(atSeconds);
}
