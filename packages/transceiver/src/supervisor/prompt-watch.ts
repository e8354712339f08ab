/** Sees when a guest first asks for a login on its serial console; one that asks elsewhere is never seen to. */
import type { EventEmitter } from 'node:events';
import { LOGIN_PROMPT } from '../machine/login-prompt.js';

/** A prompt may come in pieces. */
const KEPT_CHARS = 256;

/** Calls back once, unless the function that comes back is called before. What was printed before the call counts for nothing: it is of an earlier boot. */
export const onFirstPrompt = (
  console: EventEmitter<{ output: [data: Buffer] }>,
  callback: () => void,
): (() => void) => {
  let end = '';
  const look = (data: Buffer): void => {
    end += data.toString('latin1');
    if (LOGIN_PROMPT.test(end)) {
      console.off('output', look);
      callback();
    }
    end = end.slice(-KEPT_CHARS);
  };
  console.on('output', look);
  return () => console.off('output', look);
};
