/**
 * How much of a boot's trace is asked for by now, as a function of how far the guest is. What boots touch up to their prompt is asked for at once. A trace
 * goes on after that (docs/formats/trace.md): asked for with the rest, that would travel before the prompt on a line that is fast enough, in front of what
 * the trace did not foresee. So it is asked for when the guest comes near it.
 */
import { BOOT_PHASE, type BootSegment, type TraceTouch } from '@collective/shared';

/** By the clock of the boots that were recorded: so far ahead of the guest. */
export const LEAD_MS = 3_000;

/** So many touches and segments, from the beginning. */
export type Asked = { readonly touches: number; readonly segments: number };
export const NOTHING_ASKED: Asked = { touches: 0, segments: 0 };

/** How far the guest is: as far as boots are after that time (in which it waited for nothing), and as far as those that have touched so many blocks of the trace, whichever is more. */
export type Progress = { readonly elapsedMs: number; readonly touched: number };

/** Whole segments, where there are some: all of `touches` lie in them then. */
export const dueOf = (
  { touches, segments }: { readonly touches: readonly TraceTouch[]; readonly segments: readonly BootSegment[] },
  { elapsedMs, touched }: Progress,
  asked: Asked = NOTHING_ASKED,
): Asked => {
  const guestAtMs = Math.max(elapsedMs, touches[Math.min(touched, touches.length) - 1]?.afterMs ?? 0);
  const isDue = (touch: TraceTouch | undefined): boolean =>
    touch !== undefined && (touch.phase !== BOOT_PHASE.idle || touch.afterMs <= guestAtMs + LEAD_MS);
  let due = asked;
  while (isDue(touches[due.touches])) {
    const next = segments[due.segments];
    due = { touches: due.touches + (next?.touches ?? 1), segments: due.segments + (next === undefined ? 0 : 1) };
  }
  return { ...due, touches: Math.min(due.touches, touches.length) };
};
