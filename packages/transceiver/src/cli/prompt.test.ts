import { PassThrough } from 'node:stream';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Interrupted } from './output.js';
import { askLine } from './prompt.js';

/** A terminal at which a test types. */
const atTerminal = (): PassThrough => {
  const typed = Object.assign(new PassThrough(), { isTTY: true });
  vi.spyOn(process, 'stdin', 'get').mockReturnValue(typed as unknown as typeof process.stdin);
  vi.spyOn(process, 'stderr', 'get').mockReturnValue(
    Object.assign(new PassThrough(), { isTTY: true }) as unknown as typeof process.stderr,
  );
  return typed;
};
afterEach(() => vi.restoreAllMocks());

describe('a question at the terminal', () => {
  it('gives the line without its blanks', async () => {
    const terminal = atTerminal();
    const answer = askLine('Account name: ');
    terminal.write(' alice \n');
    expect(await answer).toBe('alice');
  });

  it.each([
    ['Ctrl-C', '\u0003'],
    ['Ctrl-D', '\u0004'],
  ])('ends with the code of an interruption after %s, never as if all were well', async (_name, key) => {
    const terminal = atTerminal();
    const answer = askLine('Type its last group: ');
    terminal.write(key);
    await expect(answer).rejects.toBeInstanceOf(Interrupted);
  });
});
