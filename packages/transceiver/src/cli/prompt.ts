/** Questions at the terminal: visible lines and hidden passwords. Never from a pipe: scripts use --password-stdin. */
import { createInterface } from 'node:readline';
import { CollectiveError } from '@collective/shared/errors';
import { Interrupted } from './output.js';

export const isInteractive = (): boolean => process.stdin.isTTY && process.stderr.isTTY;

/** Errors: `usage` without a terminal; Ctrl-C and Ctrl-D end the command. */
export async function askLine(question: string): Promise<string> {
  if (!isInteractive()) throw new CollectiveError('usage', `"${question.trim()}" can only be asked at a terminal.`);
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const typed = await new Promise<string>((resolve, reject) => {
      // Without these the question is never answered, and the program ends as if all were well.
      lines.once('SIGINT', () => reject(new Interrupted()));
      lines.once('close', () => reject(new Interrupted()));
      lines.question(question, resolve);
    });
    return typed.trim();
  } catch (error) {
    process.stderr.write('\n');
    throw error;
  } finally {
    lines.close();
  }
}

/** Reads a line without showing it. Ctrl-C ends the command, Ctrl-U starts the line again. */
export async function askHidden(question: string): Promise<string> {
  if (!isInteractive())
    throw new CollectiveError('usage', 'A password can only be typed at a terminal; scripts use --password-stdin.');
  process.stderr.write(question);
  process.stdin.setRawMode(true);
  process.stdin.setEncoding('utf8');
  let typed = '';
  try {
    return await new Promise<string>((resolve, reject) => {
      const onData = (text: string): void => {
        for (const character of text) {
          if (character === '\r' || character === '\n') {
            process.stdin.off('data', onData);
            resolve(typed);
            return;
          }
          if (character === '\u0003' || (character === '\u0004' && typed === '')) {
            process.stdin.off('data', onData);
            reject(new Interrupted());
            return;
          }
          if (character === '\u007f' || character === '\b') typed = [...typed].slice(0, -1).join('');
          else if (character === '\u0015') typed = '';
          else if (character >= ' ') typed += character;
        }
      };
      process.stdin.on('data', onData);
      process.stdin.resume();
    });
  } finally {
    process.stdin.setRawMode(false);
    process.stdin.pause();
    process.stderr.write('\n');
  }
}

/** The first lines of stdin, without their newlines; fewer when it ends before. */
export async function readSecretLines(count: number): Promise<string[]> {
  const parts: Buffer[] = [];
  for await (const part of process.stdin) {
    parts.push(Buffer.from(part as Uint8Array));
    if (Buffer.concat(parts).toString('latin1').split('\n').length > count) break;
  }
  const lines = Buffer.concat(parts).toString('utf8').split('\n').slice(0, count);
  return lines.map((line) => line.replace(/\r$/, ''));
}
