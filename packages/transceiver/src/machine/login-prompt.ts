/** What getty asks on a serial console: at the start of a line, after the host's name or nothing. */

/** "Last login: …" is what the shell says afterwards; "failed login: " and the like are messages. */
const PROMPT = /^(?!(?:last|failed|invalid) )(?:\S+ )?login: /i;
/** Control sequences that put the cursor elsewhere begin a new line for the reader. */
const MOVES = /\u001b\[[0-9;?]*[HJf]/g;
const OTHER_SEQUENCES = /\u001b\[[0-9;?]*[A-Za-z]/g;
/** Of a line, from its beginning: a prompt is there, and a guest may print a line that does not end. */
const LINE_CHARS_MAX = 512;

/** Looks for a login prompt in what a console shows piece by piece. */
export class PromptFinder {
  /** The line that has not ended, or its beginning. */
  #line = '';

  /** True when the prompt is in this piece, or ends in it. */
  finds(piece: Buffer): boolean {
    const lines = (this.#line + piece.toString('latin1')).split(/[\r\n]/);
    this.#line = (lines.at(-1) ?? '').slice(0, LINE_CHARS_MAX);
    return lines.some((line) =>
      line
        .slice(0, LINE_CHARS_MAX)
        .replace(MOVES, '\n')
        .split('\n')
        .some((part) => PROMPT.test(part.replace(OTHER_SEQUENCES, ''))),
    );
  }
}
