import { describe, expect, it } from 'vitest';
import { ByteReader, magicBytes } from './byte-reader.js';
import { codeOf } from './testing/code-of.js';

const reader = (hex: string): ByteReader => new ByteReader(Buffer.from(hex, 'hex'), 'test');

describe('byte reader', () => {
  it('reads little-endian numbers, views and what is left', () => {
    const bytes = reader('01020304050607ffffffffffff1f00aabbcc');
    expect([bytes.u8(), bytes.u16(), bytes.u32()]).toEqual([1, 0x0302, 0x07060504]);
    expect(bytes.u64()).toBe(Number.MAX_SAFE_INTEGER);
    expect(bytes.byteOffset).toBe(15);
    expect(bytes.take(1)).toEqual(Buffer.from('aa', 'hex'));
    expect(bytes.rest()).toEqual(Buffer.from('bbcc', 'hex'));
    expect(codeOf(() => bytes.end())).toBe('value');
  });

  it('refuses a 64-bit value above 2^53 - 1, which a number would round', () => {
    expect(codeOf(() => reader('0000000000002000').u64())).toBe('malformed');
    expect(codeOf(() => reader('ffffffffffffffff').u64())).toBe('malformed');
  });

  it('refuses to read beyond the end, and then still stands where it stood', () => {
    const bytes = reader('010203');
    for (const read of [() => bytes.u32(), () => bytes.u64(), () => bytes.take(4), () => bytes.reserved(4)]) {
      expect(codeOf(read)).toBe('malformed');
    }
    expect(bytes.u16()).toBe(0x0201);
    expect(codeOf(() => bytes.end())).toBe('malformed');
  });

  it('tells another version of a format from another format', () => {
    const magic = magicBytes('CDM', 1);
    expect(codeOf(() => reader('43444d01').magic(magic))).toBe('value');
    expect(codeOf(() => reader('43444d02').magic(magic))).toBe('unknown-format');
    expect(codeOf(() => reader('43444e01').magic(magic))).toBe('malformed');
    expect(codeOf(() => reader('43444d').magic(magic))).toBe('malformed');
  });

  it('reads a view of other memory at its own offset', () => {
    const whole = Uint8Array.from([9, 9, 1, 2, 9]);
    expect(new ByteReader(whole.subarray(2, 4), 'test').u16()).toBe(0x0201);
  });
});
