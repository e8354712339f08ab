/**
 * The bars of the outage tests are for a machine that has time for its people. Where more programs want to run than two a core, every
 * answer waits for its turn, and the bars are longer in the same proportion, up to a limit: beyond that a slow answer is our own.
 */
import os from 'node:os';

const PROGRAMS_PER_CORE = 2;
const CROWDING_MAX = 3;

/** 1 to 3. The mean of the last minute. */
export const crowding = (): number => {
  const programsPerCore = (os.loadavg()[0] ?? 0) / os.availableParallelism();
  return Math.min(CROWDING_MAX, Math.max(1, programsPerCore / PROGRAMS_PER_CORE));
};
