/**
 * Strict JSON (docs/formats/envelope.md): a parser for signed and stored documents, where one text must mean one thing
 * to every reader. Refused: a byte-order mark, bytes that are not UTF-8, more than 16 levels, a repeated key, a number
 * that is not a safe integer, a lone surrogate, anything after the value.
 */
import { asBuffer } from './byte-reader.js';
import { CollectiveError } from './errors.js';

export const JSON_DEPTH_MAX = 16;

/** The value; objects are plain objects. Errors: `too-large` above `bytesMax`, else `malformed`. */
export const parseStrictJson = (bytes: Uint8Array, { bytesMax }: { readonly bytesMax: number }): unknown => {
  if (bytes.length > bytesMax) {
    throw new CollectiveError('too-large', `JSON: ${bytes.length} bytes, at most ${bytesMax} are allowed`);
  }
  return new Parser(decodeUtf8(bytes)).document();
};

/** The bytes of a document: no white space, fields in the order of the object. */
export const encodeJson = (value: unknown): Buffer => Buffer.from(JSON.stringify(value), 'utf8');

const decodeUtf8 = (bytes: Uint8Array): string => {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(asBuffer(bytes));
  } catch (error) {
    throw new CollectiveError('malformed', 'JSON: not UTF-8', { cause: error });
  }
};

const WHITE_SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?![0-9.eE])/y;
const LONE_SURROGATE = /\p{Surrogate}/u;

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  document(): unknown {
    const value = this.#value(1);
    if (this.#at < this.#text.length) throw this.#error('something follows the value');
    return value;
  }

  // Every production skips the white space on both sides of what it reads.
  #value(depth: number): unknown {
    if (depth > JSON_DEPTH_MAX) throw this.#error(`more than ${JSON_DEPTH_MAX} levels`);
    this.#match(WHITE_SPACE);
    const value = this.#bareValue(depth);
    this.#match(WHITE_SPACE);
    return value;
  }

  #bareValue(depth: number): unknown {
    switch (this.#text[this.#at]) {
      case '{':
        return this.#object(depth);
      case '[':
        return this.#array(depth);
      case '"':
        return this.#string();
      case 't':
        return this.#word('true', true);
      case 'f':
        return this.#word('false', false);
      case 'n':
        return this.#word('null', null);
      default:
        return this.#number();
    }
  }

  #object(depth: number): Record<string, unknown> {
    const object: Record<string, unknown> = {};
    this.#at += 1;
    this.#match(WHITE_SPACE);
    if (this.#take('}')) return object;
    for (;;) {
      this.#match(WHITE_SPACE);
      const key = this.#string();
      // No document has such a field, and assigning it would change the object's prototype.
      if (key === '__proto__') throw this.#error('the key __proto__ is not allowed');
      if (Object.hasOwn(object, key)) throw this.#error(`the key ${JSON.stringify(key.slice(0, 100))} is repeated`);
      this.#match(WHITE_SPACE);
      if (!this.#take(':')) throw this.#error('a colon is missing');
      object[key] = this.#value(depth + 1);
      if (this.#take('}')) return object;
      if (!this.#take(',')) throw this.#error('a comma or } is missing');
    }
  }

  #array(depth: number): unknown[] {
    const array: unknown[] = [];
    this.#at += 1;
    this.#match(WHITE_SPACE);
    if (this.#take(']')) return array;
    for (;;) {
      array.push(this.#value(depth + 1));
      if (this.#take(']')) return array;
      if (!this.#take(',')) throw this.#error('a comma or ] is missing');
    }
  }

  // Finds the closing quote in one pass; JSON.parse then judges the escapes and control characters between the quotes.
  #string(): string {
    const from = this.#at;
    if (!this.#take('"')) throw this.#error('a string is missing');
    while (this.#at < this.#text.length && this.#text[this.#at] !== '"')
      this.#at += this.#text[this.#at] === '\\' ? 2 : 1;
    if (!this.#take('"')) throw this.#error('a string is not closed');
    const text = parseQuoted(this.#text.slice(from, this.#at));
    if (text === undefined || LONE_SURROGATE.test(text)) throw this.#error('a string is not valid');
    return text;
  }

  #number(): number {
    const digits = this.#match(NUMBER);
    const value = Number(digits);
    if (digits === undefined || digits === '-0' || !Number.isSafeInteger(value)) {
      throw this.#error('neither a value nor a safe integer');
    }
    return value;
  }

  #word<T>(word: string, value: T): T {
    if (!this.#text.startsWith(word, this.#at)) throw this.#error('not a value');
    this.#at += word.length;
    return value;
  }

  #take(character: string): boolean {
    const isThere = this.#text[this.#at] === character;
    if (isThere) this.#at += 1;
    return isThere;
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #error(message: string): CollectiveError {
    return new CollectiveError('malformed', `JSON: ${message} (at character ${this.#at})`);
  }
}

const parseQuoted = (quoted: string): string | undefined => {
  try {
    const text: unknown = JSON.parse(quoted);
    return typeof text === 'string' ? text : undefined;
  } catch {
    return undefined;
  }
};
