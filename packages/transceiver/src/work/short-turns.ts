/** How long the threads of a process keep the processor from others. */
import { readdirSync } from 'node:fs';
import { syscalls } from '../blockd/syscalls.js';

/** The kernel's own choice is 1.4 to 3 ms. */
const SLICE_US = 100;

/**
 * A guest waits for its disk, and the disk's serving thread for a processor: until whoever has it has used up their slice. With 100 us each, for
 * QEMU, the block daemon and what works behind it, a guest's slowest writes during a backup are nearly as fast as without one
 * (docs/PERFORMANCE.md). Of all threads that this process, or that one, has; later ones inherit it. Never fails: without it everything is done
 * all the same.
 */
export const takeShortTurns = (pid?: number): void => {
  if (syscalls === undefined) return;
  try {
    for (const threadId of readdirSync(`/proc/${pid ?? 'self'}/task`)) syscalls.setSlice(Number(threadId), SLICE_US);
  } catch {
    // Not to be had here.
  }
};
