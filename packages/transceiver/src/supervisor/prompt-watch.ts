/** Sees when a guest first asks for a login on its serial console; one that asks elsewhere is never seen to. */
import type { EventEmitter } from 'node:events';
import { PromptFinder } from '../machine/login-prompt.js';

/** Calls back once, unless the function that comes back is called before. What was printed before the call counts for nothing: it is of an earlier boot. */
export const onFirstPrompt = (
  console: EventEmitter<{ output: [data: Buffer] }>,
  callback: () => void,
): (() => void) => {
  const finder = new PromptFinder();
  const look = (data: Buffer): void => {
    if (!finder.finds(data)) return;
    console.off('output', look);
    callback();
  };
  console.on('output', look);
  return () => console.off('output', look);
};
