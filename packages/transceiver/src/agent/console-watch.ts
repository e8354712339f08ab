/** Waits until a machine's serial console has shown something. */
import type { Duplex } from 'node:stream';
import { CollectiveError } from '@collective/shared';
import { PromptFinder } from '../machine/login-prompt.js';

/** The end of the console that is searched, and told of when it does not come: a text may come in pieces. */
const TAIL_CHARS_MAX = 16_384;

/** The end of a console for people: without control sequences, the last lines. */
export function readableTail(text: string, lines = 12): string {
  const plain = text.replace(/\u001b\[[0-9;?]*[A-Za-z]|[\u0000-\u0008\u000b-\u001f\u007f]/g, '');
  return plain.trimEnd().split('\n').slice(-lines).join('\n');
}

/**
 * Resolves when the console has shown the text, "login" for any login prompt. `console` begins with what was shown before. Errors: `no-boot` with
 * the end of the console when time runs out or the machine ends first; abort rejects with the signal's reason.
 */
export async function watchConsole(
  console: Duplex,
  wanted: { readonly name: string; readonly text: string; readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<void> {
  const finder = wanted.text === 'login' ? new PromptFinder() : undefined;
  const what = finder !== undefined ? 'a login prompt' : `"${wanted.text}"`;
  let seen = '';
  await new Promise<void>((resolve, reject) => {
    const fail = (why: string): void => {
      const tail = readableTail(seen);
      settle(() =>
        reject(
          new CollectiveError(
            'no-boot',
            `${wanted.name} ${why} before ${what}.${tail === '' ? ' Its console showed nothing.' : ` Its console ends with:\n${tail}`}`,
          ),
        ),
      );
    };
    const timer = setTimeout(
      () => fail(`did not show it within ${String(Math.round(wanted.timeoutMs / 1000))} s:`),
      wanted.timeoutMs,
    );
    const onData = (bytes: Buffer): void => {
      seen = (seen + bytes.toString('latin1')).slice(-TAIL_CHARS_MAX);
      if (finder === undefined ? seen.includes(wanted.text) : finder.finds(bytes)) settle(resolve);
    };
    const onClose = (): void => fail('ended');
    const onAbort = (): void =>
      settle(() => reject(wanted.signal.reason instanceof Error ? wanted.signal.reason : new Error('aborted')));
    const settle = (act: () => void): void => {
      clearTimeout(timer);
      console.off('data', onData);
      console.off('close', onClose);
      wanted.signal.removeEventListener('abort', onAbort);
      act();
    };
    console.on('data', onData);
    console.resume(); // a connection that was something else before comes paused
    console.once('close', onClose);
    wanted.signal.addEventListener('abort', onAbort, { once: true });
    if (wanted.signal.aborted) onAbort();
  });
}
