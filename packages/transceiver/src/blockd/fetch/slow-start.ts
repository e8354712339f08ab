/**
 * The beginning of a line, as a function of what was heard of it. What a line can do is measured over half a second of traffic, and what is asked for
 * goes by what was measured: from nothing, that takes a second to fill a fast line. So at the beginning each byte that has come lets one more be
 * outstanding (twice as many each round trip, as TCP does it), until first bytes come late: then they wait behind others of ours, and the line is full. Half
 * of what was outstanding is enough from there until the rate is known.
 */

/** `bytesMax`: so much may be outstanding, whatever the rate says. */
export type SlowStart =
  | { readonly kind: 'new'; readonly bytesMax: number }
  | { readonly kind: 'growing'; readonly bytesMax: number; readonly late: number; readonly untilMs: number }
  | { readonly kind: 'holding'; readonly bytesMax: number; readonly untilMs: number }
  | { readonly kind: 'over'; readonly bytesMax: 0 };

export const SLOW_START: SlowStart = { kind: 'new', bytesMax: 128 << 10 };
const OVER: SlowStart = { kind: 'over', bytesMax: 0 };

/** A beginning that lasts longer is that of a line nobody wanted much of: its first seconds say nothing about a full one. */
const GROW_MS = 1_500;
/** A first byte is late when it took so much longer than the shortest, or twice as long as that: one that waits for a processor is not. */
const LATE_MS = 30;
/** One alone may have other reasons. */
const LATE_IN_A_ROW = 3;
/** Until the rate is that of full windows (link-meter.ts). */
const HOLD_MS = 600;

/** So many bytes have come. */
export const afterBytes = (state: SlowStart, byteLength: number, nowMs: number): SlowStart => {
  const grown = state.bytesMax + byteLength;
  if (state.kind === 'new') return { kind: 'growing', bytesMax: grown, late: 0, untilMs: nowMs + GROW_MS };
  if (state.kind === 'over') return state;
  if (nowMs >= state.untilMs) return OVER;
  return state.kind === 'growing' ? { ...state, bytesMax: grown } : state;
};

/** A request that was sent `afterMs` ago has its first byte; `roundTripMs`: the shortest time of that. */
export const afterFirstByte = (
  state: SlowStart,
  { afterMs, roundTripMs, nowMs }: { readonly afterMs: number; readonly roundTripMs: number; readonly nowMs: number },
): SlowStart => {
  if (state.kind !== 'growing') return state;
  if (afterMs <= roundTripMs + Math.max(roundTripMs, LATE_MS)) return { ...state, late: 0 };
  if (state.late + 1 < LATE_IN_A_ROW) return { ...state, late: state.late + 1 };
  return { kind: 'holding', bytesMax: state.bytesMax / 2, untilMs: nowMs + HOLD_MS };
};
