import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeJson, parseStrictJson } from './strict-json.js';
import { codeOf } from './testing/code-of.js';

const parse = (text: string | Uint8Array): unknown =>
  parseStrictJson(Buffer.from(text as string), { bytesMax: 10_000 });

describe('strict JSON', () => {
  it.each([
    ['two values', '1 2'],
    ['a byte after the value', '{}x'],
    ['nothing', ''],
    ['white space alone', ' '],
    ['a repeated key', '{"a":1,"a":1}'],
    ['a key that is repeated in another spelling', '{"a":1,"\\u0061":1}'],
    ['the key __proto__', '{"__proto__":{}}'],
    ['a fraction', '1.0'],
    ['an exponent', '1e2'],
    ['minus zero', '-0'],
    ['a leading zero', '01'],
    ['a plus', '+1'],
    ['2^53', '9007199254740992'],
    ['an endless number', '9'.repeat(400)],
    ['a lone surrogate', '"\\ud800"'],
    ['a reversed pair of surrogates', '"\\udc00\\ud800"'],
    ['a raw control character', '"\u0001"'],
    ['an unknown escape', '"\\x41"'],
    ['a cut escape', '"\\u00"'],
    ['an open string', '"abc'],
    ['an open string behind a backslash', '"abc\\'],
    ['a trailing comma in a list', '[1,]'],
    ['a trailing comma in an object', '{"a":1,}'],
    ['a key without quotes', '{a:1}'],
    ['single quotes', "'a'"],
    ['a comment', '1 // one'],
    ['NaN', 'NaN'],
    ['undefined', 'undefined'],
    ['a byte-order mark', '\ufeff1'],
    ['a no-break space', '\u00a01'],
    ['17 levels', `${'['.repeat(17)}${']'.repeat(17)}`],
  ])('refuses %s', (_name, text) => {
    expect(codeOf(() => parse(text))).toBe('malformed');
  });

  it('refuses bytes that are not UTF-8: a cut sequence, an overlong one, a surrogate', () => {
    for (const hex of ['22c322', '22c0af22', '22eda08022', 'ff', '22f490808022']) {
      expect(codeOf(() => parse(Buffer.from(hex, 'hex')))).toBe('malformed');
    }
  });

  it('refuses more bytes than allowed before it looks at one', () => {
    expect(codeOf(() => parseStrictJson(Buffer.alloc(11, '1'), { bytesMax: 10 }))).toBe('too-large');
  });

  it('accepts 16 levels, white space between tokens, escapes and pairs of surrogates', () => {
    expect(parse(`${'['.repeat(16)}${']'.repeat(16)}`)).toBeDefined();
    expect(
      parse(' { "a" : [ 1 , -2 , true , false , null ] ,\t"b" : "\\u00fc\\n\\ud83d\\ude00\u{1f600}" }\r\n'),
    ).toEqual({
      a: [1, -2, true, false, null],
      b: 'ü\n\u{1f600}\u{1f600}',
    });
  });

  it('reads what it writes, for any value of its kind', () => {
    const text = fc.string({ unit: 'grapheme' });
    const value = fc.letrec((tie) => ({
      any: fc.oneof(
        { maxDepth: 4 },
        fc.maxSafeInteger().map((number) => (Object.is(number, -0) ? 0 : number)),
        text,
        fc.boolean(),
        fc.constant(null),
        fc.array(tie('any')),
        fc.dictionary(
          text.filter((key) => key !== '__proto__'),
          tie('any'),
          { noNullPrototype: true },
        ),
      ),
    })).any;
    fc.assert(
      fc.property(value, (original) => {
        expect(parseStrictJson(encodeJson(original), { bytesMax: 1_000_000 })).toEqual(original);
      }),
    );
  });

  it('accepts nothing that JSON.parse refuses, and gives the same value', () => {
    const token = fc.constantFrom(
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '"a"',
      '"',
      '\\',
      '1',
      '-',
      '0',
      'true',
      'null',
      ' ',
      '\\u0041',
      '.',
      'e',
    );
    fc.assert(
      fc.property(fc.array(token, { maxLength: 12 }), (tokens) => {
        const text = tokens.join('');
        if (codeOf(() => parse(text)) === 'value') expect(parse(text)).toEqual(JSON.parse(text));
      }),
      { numRuns: 3_000 },
    );
  });
});
