import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { isNative, makeByNode, newBlockCipher } from './block-cipher.js';

test.each(['ecb-encrypt', 'ecb-decrypt', 'ctr'] as const)(
  '%s is node:crypto’s, call by call, in place and into other bytes',
  (mode) => {
    const key = randomBytes(32);
    const counter = mode === 'ctr' ? Buffer.alloc(16, 0xff) : null;
    const ours = newBlockCipher(mode, key, counter);
    const foreign = makeByNode(mode, Buffer.from(key), counter);
    key.fill(0); // it has its own copy
    for (const byteLength of [16, 4096, 0, 512, 65_536, ...(mode === 'ctr' ? [1, 7, 100_003] : [])]) {
      const plain = randomBytes(byteLength);
      const expected = Buffer.alloc(byteLength);
      foreign.update(plain, expected);
      const found = Buffer.alloc(byteLength + 5, 0xaa);
      if (byteLength % 32 === 0) ours.update(plain, found);
      else {
        plain.copy(found);
        ours.update(found.subarray(0, byteLength), found);
      }
      expect(found.subarray(0, byteLength).equals(expected)).toBe(true);
      expect(found.subarray(byteLength).every((byte) => byte === 0xaa)).toBe(true);
    }
  },
);

test('where this Node has OpenSSL in its process, nothing is made for a call; a target that is too short is refused', () => {
  expect(isNative).toBe(process.env['COLLECTIVE_NO_KOFFI'] !== '1');
  expect(() =>
    newBlockCipher('ctr', Buffer.alloc(32), Buffer.alloc(16)).update(Buffer.alloc(32), Buffer.alloc(31)),
  ).toThrow(RangeError);
});
