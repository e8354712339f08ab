/** How long the threads of this process keep the processor from others. */
import { readdirSync } from 'node:fs';
import { syscalls } from '../blockd/syscalls.js';

/** The kernel's own choice is 1.4 to 3 ms. */
const SLICE_US = 100;

/**
 * A guest waits for its disk, and the disk's serving thread for a processor: until whoever has it has used up their slice. With 100 us each, for
 * the block daemon and for what works behind it, a guest's slowest writes during a backup are as fast as without one (docs/PERFORMANCE.md).
 * Of all threads that there are; later ones inherit it. Never fails: without it everything is done all the same.
 */
export const takeShortTurns = (): void => {
  if (syscalls === undefined) return;
  try {
    for (const threadId of readdirSync('/proc/self/task')) syscalls.setSlice(Number(threadId), SLICE_US);
  } catch {
    // Not to be had here.
  }
};
