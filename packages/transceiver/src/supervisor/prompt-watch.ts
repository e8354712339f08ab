/** Sees when a guest first asks for a login on its serial console; one that asks elsewhere is never seen to. */
import type { EventEmitter } from 'node:events';
import { LOGIN_PROMPT } from '../machine/login-prompt.js';
import type { SerialConsole } from './serial-console.js';

/** A prompt is the last that was printed, and may come in pieces. */
const LOOKED_AT_BYTES = 256;

/** Calls back once, unless the signal aborts before. */
export const onFirstPrompt = (
  console: Pick<SerialConsole, 'tail'> & EventEmitter<{ output: [] }>,
  signal: AbortSignal,
  callback: () => void,
): void => {
  if (signal.aborted) return;
  const leave = (): void => {
    console.off('output', look);
    signal.removeEventListener('abort', leave);
  };
  const look = (): void => {
    if (!LOGIN_PROMPT.test(console.tail(LOOKED_AT_BYTES).toString('latin1'))) return;
    leave();
    callback();
  };
  signal.addEventListener('abort', leave, { once: true });
  console.on('output', look);
};
