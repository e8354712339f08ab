/**
 * T*: the best that any order of sending could do (DESIGN §8). A pure function.
 *
 * The line: at time 0 the client may say what it wants, in nothing and in no time of its own; that takes half a round trip. Then
 * blocks leave back to back, each taking bytes × 8 / rate, and arrive half a round trip after they have left. So block i of the order
 * of sending has arrived at  roundTrip + (bytes of the blocks up to and with i) × 8 / rate.  No connection is set up, no request has a
 * length, no map is fetched, nothing is checked or written: all that is what we pay, not T*.
 *
 * The guest: its clock runs from 0 and stops while a block that it touches has not arrived; every later touch, and the end, shift by
 * the stall. With a think factor f the touch that was recorded at t is due when the guest's clock shows f × t.
 *
 * The order: that of first touch. Since one missing block stops the whole clock, the end is
 * max(f × end, max over i of arrival(i) + f × (end − touch(i))), a problem of delivery times on one machine, for which "longest
 * delivery first", here earliest touch first, is the best order (Jackson; t-star.test.ts tries all orders of small cases).
 */

export type FirstTouch = {
  /** When the guest touched the block in the recording, microseconds since its start. */
  readonly atUs: number;
  /** The block's chunk as it travels. */
  readonly chunkBytes: number;
};

export type Line = { readonly bitsPerSecond: number; readonly roundTripMs: number };

/** Seconds until the guest has come to its end. `touches` in the order of sending. */
export const timeWithOrder = (
  touches: readonly FirstTouch[],
  options: { readonly line: Line; readonly endUs: number; readonly thinkFactor: number },
): number => {
  const { line, endUs, thinkFactor } = options;
  const arrivals = new Map<FirstTouch, number>();
  let sentBits = 0;
  for (const touch of touches) {
    sentBits += touch.chunkBytes * 8;
    arrivals.set(touch, line.roundTripMs / 1000 + sentBits / line.bitsPerSecond);
  }
  let stalled = 0;
  for (const touch of [...touches].sort((one, other) => one.atUs - other.atUs)) {
    const dueAt = (touch.atUs * thinkFactor) / 1e6 + stalled;
    stalled += Math.max(0, (arrivals.get(touch) ?? 0) - dueAt);
  }
  return (endUs * thinkFactor) / 1e6 + stalled;
};

/** T* in seconds. */
export const tStar = (
  touches: readonly FirstTouch[],
  options: { readonly line: Line; readonly endUs: number; readonly thinkFactor: number },
): number =>
  timeWithOrder(
    [...touches].sort((one, other) => one.atUs - other.atUs),
    options,
  );
