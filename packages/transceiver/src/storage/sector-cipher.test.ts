import { createCipheriv, randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { CIPHER_SECTOR_BYTES, SectorCipher } from './sector-cipher.js';

/** Sector by sector by node:crypto (OpenSSL). */
const foreign = (key: Buffer, plain: Buffer, firstSector: number): Buffer => {
  const sectors: Buffer[] = [];
  for (let at = 0; at < plain.length; at += CIPHER_SECTOR_BYTES) {
    const tweak = Buffer.alloc(16);
    tweak.writeBigUInt64LE(BigInt(firstSector) + BigInt(at / CIPHER_SECTOR_BYTES));
    const cipher = createCipheriv('aes-256-xts', key, tweak);
    sectors.push(cipher.update(plain.subarray(at, at + CIPHER_SECTOR_BYTES)));
  }
  return Buffer.concat(sectors);
};

describe('sectors under AES-256-XTS', () => {
  test('are what OpenSSL makes of them, for runs of any length and numbers up to 2^44', () => {
    const key = randomBytes(64);
    const cipher = new SectorCipher(key);
    for (const firstSector of [0, 1, 7, 2 ** 31 - 1, 2 ** 32 - 1, 2 ** 32, 2 ** 35 + 3, 2 ** 44]) {
      for (const sectorCount of [1, 2, 8, 31, 32, 33, 128, 300]) {
        const plain = randomBytes(sectorCount * CIPHER_SECTOR_BYTES);
        const encrypted = Buffer.alloc(plain.length);
        cipher.encrypt(plain, encrypted, firstSector);
        expect(encrypted.equals(foreign(key, plain, firstSector))).toBe(true);
        cipher.decrypt(encrypted, encrypted, firstSector);
        expect(encrypted.equals(plain)).toBe(true);
      }
    }
  });

  test('stand alone: a run read from its middle is the same, and bytes need no alignment', () => {
    const cipher = new SectorCipher(randomBytes(64));
    const plain = randomBytes(64 * CIPHER_SECTOR_BYTES);
    const encrypted = Buffer.alloc(plain.length + 3).subarray(3);
    cipher.encrypt(plain, encrypted, 100);
    const middle = Buffer.alloc(5 * CIPHER_SECTOR_BYTES + 1).subarray(1);
    cipher.decrypt(encrypted.subarray(40 * CIPHER_SECTOR_BYTES, 45 * CIPHER_SECTOR_BYTES), middle, 140);
    expect(middle.equals(plain.subarray(40 * CIPHER_SECTOR_BYTES, 45 * CIPHER_SECTOR_BYTES))).toBe(true);
  });

  test('leave their source as it is', () => {
    const plain = Buffer.alloc(2 * CIPHER_SECTOR_BYTES, 7);
    new SectorCipher(randomBytes(64)).encrypt(plain, Buffer.alloc(plain.length), 3);
    expect(plain.equals(Buffer.alloc(plain.length, 7))).toBe(true);
  });

  test('a key of another length, two equal halves, and parts of sectors are refused', () => {
    expect(() => new SectorCipher(randomBytes(32))).toThrow(RangeError);
    expect(() => new SectorCipher(Buffer.alloc(64, 1))).toThrow(RangeError);
    const cipher = new SectorCipher(randomBytes(64));
    expect(() => cipher.encrypt(Buffer.alloc(100), Buffer.alloc(100), 0)).toThrow(RangeError);
    expect(() => cipher.encrypt(Buffer.alloc(512), Buffer.alloc(1024), 0)).toThrow(RangeError);
  });
});
