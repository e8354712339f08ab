/** The lines of shared/tools/link.mjs's profiles, towards the client, for T*. */
import type { Line } from './t-star.js';

export type PlayedLink = 'lan' | 'cable' | 'lte' | 'dsl';

export const LINES: Readonly<Record<PlayedLink, Line>> = {
  lan: { bitsPerSecond: 100e6, roundTripMs: 0.2 },
  cable: { bitsPerSecond: 100e6, roundTripMs: 20 },
  lte: { bitsPerSecond: 12e6, roundTripMs: 60 },
  dsl: { bitsPerSecond: 1.5e6, roundTripMs: 40 },
};
