/**
 * The line of each client, and how far its clock has to be slowed where one machine plays them all. Pure.
 *
 * A hundred lines of 20 Mbit/s carry 2 Gbit/s. The server could send that; a hundred clients that check every block, and their links, take more
 * processor than a small machine has, and then the harness would be what is measured. So the clock of the lines is slowed: a line of 20 Mbit/s and 20 ms
 * whose clock goes N times slower has 20/N Mbit/s, N × 20 ms and the same bytes under way. What a request costs a server does not change with it.
 */
import type { LinkRates } from '../../support/link.js';

/** Up and round trip are those of a cable. */
export const STORM_LINE: LinkRates = { downBitsPerSecond: 20e6, upBitsPerSecond: 20e6, roundTripMs: 20 };

/**
 * What clients and links carry in a second of a core, and so little of it that they wait for their lines and not for each other. Measured: see
 * docs/PERFORMANCE.md.
 */
const BITS_PER_CORE_SECOND = 100e6;

/** So many times slower goes the lines' clock. */
export const slowdown = ({ clients, cores }: { readonly clients: number; readonly cores: number }): number =>
  Math.max(1, Math.ceil((clients * STORM_LINE.downBitsPerSecond) / (cores * BITS_PER_CORE_SECOND)));

/** The least time that a line of the storm can take for so many bytes, in seconds of the machine. */
export const lineSeconds = (bytes: number, slower: number): number =>
  slower * ((bytes * 8) / STORM_LINE.downBitsPerSecond + STORM_LINE.roundTripMs / 1000);
