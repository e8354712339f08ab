/** The schedule of the swing, and what its samples say of each phase. Pure. */
import type { LineSample } from '../../support/swinging-link.js';

export type Phase = { readonly bitsPerSecond: number; readonly isShared: boolean };
/** Moments by `nowOfMachineMs`. */
export type PlayedPhase = Phase & { readonly beganMs: number; readonly endedMs: number };

/** Between `lowest` and `highest`, by ways in the middle; each capacity with another download in the midst of its time. */
export const schedule = (lowest: number, highest: number): readonly Phase[] => {
  const middle = Math.sqrt(lowest * highest);
  const phase = (bitsPerSecond: number, isShared = false): Phase => ({ bitsPerSecond, isShared });
  return [middle, highest, lowest, highest, middle].flatMap((capacity, at) =>
    at < 3 ? [phase(capacity), phase(capacity, true), phase(capacity)] : [phase(capacity)],
  );
};

/** Of the two ports of the line. */
export const OURS = 0;
export const OTHER = 1;

/** Mean rate of what arrived at a port between two moments, bits a second; NaN when no two samples lie there. */
export const rateBetween = (samples: readonly LineSample[], port: number, fromMs: number, toMs: number): number => {
  const inside = samples.filter(({ atMs }) => atMs >= fromMs && atMs <= toMs);
  const [first] = inside;
  const last = inside.at(-1);
  if (first === undefined || last === undefined || last === first) return Number.NaN;
  return (((last.bytes[port] ?? 0) - (first.bytes[port] ?? 0)) * 8_000) / (last.atMs - first.atMs);
};

/** Rates from sample to sample, averaged over `spanMs` back from each. */
export const rates = (
  samples: readonly LineSample[],
  port: number,
  spanMs: number,
): readonly { readonly atMs: number; readonly bitsPerSecond: number }[] =>
  samples.flatMap(({ atMs }) => {
    const bitsPerSecond = rateBetween(samples, port, atMs - spanMs, atMs);
    return Number.isNaN(bitsPerSecond) ? [] : [{ atMs, bitsPerSecond }];
  });

/** Seconds from the phase's begin until the rate of a port, over the last second, is such; the phase's length when it never is. */
export const secondsUntil = (
  samples: readonly LineSample[],
  { beganMs, endedMs }: PlayedPhase,
  port: number,
  is: (bitsPerSecond: number) => boolean,
): number => {
  const found = rates(samples, port, 1_000).find(
    ({ atMs, bitsPerSecond }) => atMs >= beganMs + 1_000 && atMs <= endedMs && is(bitsPerSecond),
  );
  return ((found?.atMs ?? endedMs) - beganMs) / 1_000;
};
