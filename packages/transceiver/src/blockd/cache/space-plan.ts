/**
 * How much of the file system the cache may hold, as a function of what is known: its own bound, and what is left to
 * everybody else. When the file system runs low the cache gives way, before a write of a guest fails.
 */
export type SpaceState = {
  /** The configured bound. */
  readonly cacheBytesMax: number;
  /** What the cache's slots hold now. */
  readonly usedBytes: number;
  /** Free on the file system for an ordinary user. */
  readonly freeBytes: number;
  /** What the cache leaves free. */
  readonly reserveBytes: number;
};

export const cacheBytesAllowed = (state: SpaceState): number =>
  Math.max(0, Math.min(state.cacheBytesMax, state.usedBytes + state.freeBytes - state.reserveBytes));

/** Which of several slot files gives up blocks: the one that holds most. Undefined when none holds anything. */
export const fileToRelieve = (usedBytes: readonly number[]): number | undefined => {
  let largest: number | undefined;
  usedBytes.forEach((bytes, at) => {
    if (bytes > 0 && (largest === undefined || bytes > (usedBytes[largest] ?? 0))) largest = at;
  });
  return largest;
};

/** Adjacent slots as ranges, so that a batch of freed slots is punched out in few calls. */
export const slotRanges = (slots: readonly number[]): { readonly firstSlot: number; readonly slotCount: number }[] => {
  const sorted = [...slots].sort((a, b) => a - b);
  const ranges: { firstSlot: number; slotCount: number }[] = [];
  for (const slot of sorted) {
    const last = ranges.at(-1);
    if (last !== undefined && slot === last.firstSlot + last.slotCount) last.slotCount += 1;
    else ranges.push({ firstSlot: slot, slotCount: 1 });
  }
  return ranges;
};
