/** Times as people write them: `90s`, `5m`, `12h`, `30d`, `2w`. */
import { CollectiveError } from '@collective/shared';

const UNITS: readonly (readonly [unit: string, seconds: number])[] = [
  ['w', 604_800],
  ['d', 86_400],
  ['h', 3_600],
  ['m', 60],
  ['s', 1],
];

/** Seconds. Errors: `usage`. */
export const parseSeconds = (text: string): number => {
  const [, count, unit] = /^([0-9]{1,9})([smhdw])$/.exec(text) ?? [];
  const unitSeconds = UNITS.find(([letter]) => letter === unit)?.[1];
  if (count === undefined || unitSeconds === undefined)
    throw new CollectiveError('usage', `${text.slice(0, 40)} is not a time like 30d, 12h, 5m or 0s`);
  return Number(count) * unitSeconds;
};

/** In the largest unit that gives a whole number; `parseSeconds` of it is the same again. */
export const formatSeconds = (seconds: number): string => {
  const [unit, unitSeconds] = UNITS.find(([, each]) => seconds > 0 && seconds % each === 0) ?? ['s', 1];
  return `${seconds / unitSeconds}${unit}`;
};
