/**
 * Which snapshots are kept: a pure plan. Within each step of the past the last snapshot of each interval stays. Intervals
 * are counted from 1970, and each step's is a multiple of the one before, so a snapshot that a later step keeps was kept
 * by all before it: thinning often and thinning once come to the same.
 */
import { type RetainedSnapshot } from '../catalogue/subscriptions.js';

export type RetentionStep = {
  /** Applies to what is younger than this, and to the rest of the next step's interval. */
  readonly ageSeconds: number;
  /** One snapshot of each so many seconds stays; 0: all. */
  readonly everySeconds: number;
};
export type RetentionSettings = {
  /** By age, the youngest first. */
  readonly steps: readonly RetentionStep[];
  /** For what is older than all steps; undefined: nothing of it stays. */
  readonly everySecondsThen: number | undefined;
  /** So many of the newest stay in any case. */
  readonly newestCount: number;
};

const MINUTE = 60;
const HOUR = 3_600;
const DAY = 86_400;
const WEEK = 7 * DAY;

/**
 * All of the last hour, every 5 minutes of the last day, hourly of the last week, daily of the last month, then weekly. An
 * administrator may set another one (retention-file.ts).
 */
export const RETENTION_DEFAULT: RetentionSettings = {
  steps: [
    { ageSeconds: HOUR, everySeconds: 0 },
    { ageSeconds: DAY, everySeconds: 5 * MINUTE },
    { ageSeconds: WEEK, everySeconds: HOUR },
    { ageSeconds: 30 * DAY, everySeconds: DAY },
  ],
  everySecondsThen: WEEK,
  newestCount: 10,
};

/** Numbers of those that are kept: by their age, pinned ones, and the newest, the head among them. */
export const retentionPlan = (
  snapshots: readonly RetainedSnapshot[],
  nowSeconds: number,
  settings: RetentionSettings,
): Set<number> => {
  const newestFirst = [...snapshots].sort((a, b) => b.number - a.number);
  const kept = new Set<number>();
  /** By the length of the interval. */
  const taken = new Map<number, Set<number>>();
  for (const [at, { number, committedAt, pinned }] of newestFirst.entries()) {
    const everySeconds = intervalAt({ committedAt, nowSeconds }, settings);
    const isLast = everySeconds !== undefined && isLastOfInterval({ committedAt, everySeconds }, taken);
    if (pinned || isLast || at < Math.max(1, settings.newestCount)) kept.add(number);
  }
  return kept;
};

/** The first that is asked for, from the newest on. */
const isLastOfInterval = (
  { committedAt, everySeconds }: { readonly committedAt: number; readonly everySeconds: number },
  taken: Map<number, Set<number>>,
): boolean => {
  if (everySeconds === 0) return true;
  const intervals = taken.get(everySeconds) ?? new Set<number>();
  taken.set(everySeconds, intervals);
  const interval = Math.floor(committedAt / everySeconds);
  if (intervals.has(interval)) return false;
  intervals.add(interval);
  return true;
};

/**
 * The step that a snapshot belongs to. Where a step ends it ends with a whole interval of the next one, so that no interval is cut in two:
 * otherwise what is last in its half today would not be what was last in the whole yesterday. What is younger than now, because a clock
 * went back, counts as new.
 */
const intervalAt = (
  { committedAt, nowSeconds }: { readonly committedAt: number; readonly nowSeconds: number },
  { steps, everySecondsThen }: RetentionSettings,
): number | undefined => {
  const isIn = (step: RetentionStep, at: number): boolean => {
    const nextSeconds = Math.max(1, steps[at + 1]?.everySeconds ?? everySecondsThen ?? 1);
    return committedAt >= Math.floor((nowSeconds - step.ageSeconds) / nextSeconds) * nextSeconds;
  };
  return steps.find(isIn)?.everySeconds ?? everySecondsThen;
};
