/**
 * One boot trace out of many (docs/formats/trace.md): what most boots touch, in the order in which they do. Pure, and robust to a strange one: a
 * block counts when more than half of the boots touched it, at the median of its places in them.
 */
import { CollectiveError } from './errors.js';
import { median } from './median.js';
import { type BootPhase, type BootTrace, TRACE_TOUCHES_MAX, type TraceTouch } from './trace.js';

type Seen = { readonly places: number[]; readonly times: number[]; readonly phases: number[]; chunkBytes: number };

/** All of one disk. The version is that of the first. Errors: `bad-request` for none, or for traces of several disks. */
export const mergeTraces = (traces: readonly BootTrace[]): BootTrace => {
  const [first] = traces;
  if (first === undefined) throw new CollectiveError('bad-request', 'no trace to merge');
  const votes = new Map<number, number>();
  for (const { root, blockBytes, touches } of traces) {
    if (root !== first.root || blockBytes !== first.blockBytes)
      throw new CollectiveError('bad-request', `a trace of the disk ${root} among those of ${first.root}`);
    for (const { blockIndex } of touches) votes.set(blockIndex, (votes.get(blockIndex) ?? 0) + 1);
  }
  // Only of these more than a number is kept: whoever votes may name other blocks each time.
  const usual = new Map<number, Seen>();
  for (const [blockIndex, count] of votes)
    if (count * 2 > traces.length) usual.set(blockIndex, { places: [], times: [], phases: [], chunkBytes: 0 });
  for (const { touches } of traces) {
    touches.forEach(({ blockIndex, afterMs, phase, chunkBytes }, at) => {
      const block = usual.get(blockIndex);
      if (block === undefined) return;
      // Machines and lines differ in speed: the place in the order says more than the time.
      block.places.push(at / touches.length);
      block.times.push(afterMs);
      block.phases.push(phase);
      block.chunkBytes ||= chunkBytes;
    });
  }
  const ordered = [...usual]
    .map(([blockIndex, { places, times, phases, chunkBytes }]) => ({
      blockIndex,
      place: median(places),
      afterMs: median(times),
      phase: median(phases) as BootPhase,
      chunkBytes,
    }))
    .sort((one, other) => one.place - other.place || one.blockIndex - other.blockIndex)
    // More than half of the votes may be for more blocks than one trace has.
    .slice(0, TRACE_TOUCHES_MAX);
  let latestMs = 0;
  const touches: TraceTouch[] = ordered.map(({ blockIndex, afterMs, phase, chunkBytes }) => {
    latestMs = Math.max(latestMs, afterMs);
    return { blockIndex, afterMs: latestMs, phase, chunkBytes };
  });
  return { version: first.version, root: first.root, blockBytes: first.blockBytes, touches };
};
