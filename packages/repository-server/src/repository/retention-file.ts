/**
 * `server/retention.json`: which snapshots stay and how long what is deleted can be brought back, as the administrator has
 * set it with `collective-repository retention`; absent, the defaults count. The file holds the words of the command:
 *
 *   {"format":1,"keep":"1h:all,1d:5m,7d:1h,30d:1d,rest:7d","newest":10,"deleted":"30d"}
 *
 * `keep`: up to which age one snapshot of each so many minutes, hours or days stays. Each interval is a multiple of the one
 * before, which is what makes thinning often and thinning once come to the same (retention.ts).
 */
import { join } from 'node:path';
import { CollectiveError, documentCodec, integerField, strictObject, textField } from '@collective/shared';
import { Type } from '@collective/schema';
import { formatSeconds, parseSeconds } from '../duration.js';
import { type DurableFiles } from '../storage/durable-file.js';
import { type FileSystem } from '../storage/file-system.js';
import { RETENTION_DEFAULT, type RetentionSettings, type RetentionStep } from './retention.js';

export type Retention = {
  readonly plan: RetentionSettings;
  /** How long what was thinned or deleted stays and can be brought back. */
  readonly deletedSeconds: number;
};
export type RetentionWords = { readonly keep: string; readonly newest: number; readonly deleted: string };

/** Fewer would let a busy hour push out what an undo goes back to. */
export const NEWEST_MIN = RETENTION_DEFAULT.newestCount;
export const NEWEST_MAX = 1_000;
const STEPS_MAX = 16;
const DAY = 86_400;
const YEAR = 365 * DAY;
const DELETED_SECONDS_MIN = DAY;
const DELETED_SECONDS_MAX = 10 * YEAR;
/** Transceivers take one so often while something is written. */
const PERIOD_SECONDS = 30;
/** Of one machine in a year; each commit looks at the rows of all that are kept. */
const SNAPSHOTS_KEPT_MAX = 30_000;

const codec = documentCodec(
  strictObject({
    format: Type.Literal(1),
    keep: textField({ min: 1, max: 400 }),
    newest: integerField({ min: 0, max: Number.MAX_SAFE_INTEGER }),
    deleted: textField({ min: 1, max: 40 }),
  }),
  { what: 'retention', bytesMax: 4_096 },
);

/** Undefined when nothing has been set. Errors: `malformed`, with the path and what to do; `unknown-format`. */
export const readRetentionFile = async (fileSystem: FileSystem, folder: string): Promise<Retention | undefined> => {
  const path = retentionPath(folder);
  const bytes = await fileSystem.read(path);
  if (bytes === undefined) return undefined;
  try {
    return parseRetention(codec.decode(bytes));
  } catch (error) {
    // One of a later program is not to be set anew by this one.
    if (!(error instanceof CollectiveError) || error.code === 'unknown-format') throw error;
    throw new CollectiveError(
      'malformed',
      `${path}: ${error.message}. Nothing is thinned or collected until it is right: set it anew with collective-repository retention ${folder} --keep …, or --default`,
      { cause: error },
    );
  }
};

export const writeRetentionFile = async (files: DurableFiles, folder: string, words: RetentionWords): Promise<void> => {
  const { keep, newest, deleted } = words;
  await files.replace(retentionPath(folder), codec.encode({ format: 1, keep, newest, deleted }), { mode: 0o600 });
};

const retentionPath = (folder: string): string => join(folder, 'server', 'retention.json');

/** Errors: `usage`, saying what is wrong and what would be right. */
export const parseRetention = ({ keep, newest, deleted }: RetentionWords): Retention => {
  if (!Number.isInteger(newest) || newest < NEWEST_MIN || newest > NEWEST_MAX)
    throw usage(
      `newest: ${newest} is not allowed: at least the last ${NEWEST_MIN} snapshots stay, at most ${NEWEST_MAX}`,
    );
  const deletedSeconds = parseSeconds(deleted);
  if (deletedSeconds < DELETED_SECONDS_MIN || deletedSeconds > DELETED_SECONDS_MAX)
    throw usage(
      `deleted: ${deleted} is not allowed: from ${formatSeconds(DELETED_SECONDS_MIN)} to ${formatSeconds(DELETED_SECONDS_MAX)} (gc --grace can do less, once)`,
    );
  const plan = { ...parseKeep(keep), newestCount: newest };
  const kept = keptInAYear(plan);
  if (kept > SNAPSHOTS_KEPT_MAX)
    throw usage(
      `keep: of a machine that runs day and night up to ${kept} snapshots would stay in a year, more than ${SNAPSHOTS_KEPT_MAX}: let the first steps end earlier, or make the steps between closer (a step has the rest of an interval of the next one)`,
    );
  return { plan, deletedSeconds };
};

/** The words that `parseRetention` reads again as the same. */
export const retentionWords = ({ plan, deletedSeconds }: Retention): RetentionWords => ({
  keep: [
    ...plan.steps.map(({ ageSeconds, everySeconds }) => `${formatSeconds(ageSeconds)}:${formatEvery(everySeconds)}`),
    `rest:${formatEvery(plan.everySecondsThen)}`,
  ].join(','),
  newest: plan.newestCount,
  deleted: formatSeconds(deletedSeconds),
});

/** How many snapshots of a machine that runs day and night stay at most when a year has passed. */
export const keptInAYear = ({ steps, everySecondsThen, newestCount }: RetentionSettings): number => {
  let [count, from] = [0, 0];
  const all = [...steps, { ageSeconds: YEAR, everySeconds: everySecondsThen }];
  for (const [at, { ageSeconds, everySeconds }] of all.entries()) {
    // A step has the rest of an interval of the next one.
    const to = Math.min(Math.max(ageSeconds + (all[at + 1]?.everySeconds ?? 0), from), YEAR);
    if (everySeconds !== undefined) count += (to - from) / Math.max(everySeconds, PERIOD_SECONDS);
    from = to;
  }
  return Math.max(Math.ceil(count), newestCount);
};

const parseKeep = (text: string): Pick<RetentionSettings, 'steps' | 'everySecondsThen'> => {
  const parts = text.split(',');
  if (parts.length > STEPS_MAX + 1) throw usage(`keep: ${parts.length} steps; ${STEPS_MAX + 1} are allowed`);
  const last = /^rest:(.+)$/.exec(parts.at(-1) ?? '')?.[1];
  if (last === undefined)
    throw usage(`keep: ${shown(text)} does not end with rest:TIME, rest:all or rest:none, which says what stays then`);
  const steps: RetentionStep[] = [];
  for (const part of parts.slice(0, -1)) {
    const [, age, every] = /^([^:]+):([^:]+)$/.exec(part) ?? [];
    if (age === undefined || every === undefined || age === 'rest')
      throw usage(`keep: ${shown(part)} is not AGE:TIME or AGE:all, like 1d:5m (of the last day one every 5 minutes)`);
    steps.push({ ageSeconds: parseSeconds(age), everySeconds: requireMultiple(parseEvery(every), steps, part) });
    const [before, step] = steps.slice(-2);
    if (step !== undefined && before !== undefined && step.ageSeconds <= before.ageSeconds)
      throw usage(`keep: ${shown(part)} comes after an age of ${formatSeconds(before.ageSeconds)}: ages must grow`);
  }
  const everySecondsThen = last === 'none' ? undefined : requireMultiple(parseEvery(last), steps, `rest:${last}`);
  return { steps, everySecondsThen };
};

const parseEvery = (text: string): number => {
  if (text === 'all') return 0;
  const seconds = parseSeconds(text);
  if (seconds === 0) throw usage(`keep: one every ${text} is none: say all`);
  return seconds;
};

const requireMultiple = (everySeconds: number, steps: readonly RetentionStep[], part: string): number => {
  const before = steps.at(-1)?.everySeconds ?? 0;
  if (before !== 0 && (everySeconds === 0 || everySeconds % before !== 0))
    throw usage(
      `keep: ${shown(part)} follows one every ${formatSeconds(before)}: it must be a multiple of that, like ${formatSeconds(before)} or ${formatSeconds(before * 2)}`,
    );
  return everySeconds;
};

const formatEvery = (everySeconds: number | undefined): string =>
  everySeconds === undefined ? 'none' : everySeconds === 0 ? 'all' : formatSeconds(everySeconds);

const shown = (text: string): string => (text.length > 60 ? `${text.slice(0, 60)}…` : text);

const usage = (message: string): CollectiveError => new CollectiveError('usage', message);
