import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { EncryptedFile } from './encrypted-file.js';
import type { RandomFile } from './file-system.js';
import { LocalFileSystem } from './local-file-system.js';
import { SectorCipher } from './sector-cipher.js';
import { randomFileContract } from './testing/random-file-contract.js';

const openLocal = async (byteLength: number): Promise<RandomFile> => {
  const folder = await mkdtemp(join(tmpdir(), 'random-file-'));
  const file = await new LocalFileSystem().open(join(folder, 'data'), 'create');
  await file.setByteLength(byteLength);
  onTestFinished(async () => {
    await file.close();
    await rm(folder, { recursive: true });
  });
  return file;
};

randomFileContract('a local file', openLocal);
randomFileContract('an encrypted file', async (byteLength) => {
  return new EncryptedFile(await openLocal(byteLength), new SectorCipher(randomBytes(64)));
});

test('nothing of what was written lies on the disk, not even twice the same', async () => {
  const local = await openLocal(1 << 20);
  const file = new EncryptedFile(local, new SectorCipher(randomBytes(64)));
  const marker = Buffer.from('a line that a thief would look for\n'.repeat(64)).subarray(0, 1024);
  await file.write(marker, 0);
  file.writeNow(marker, 8192);
  await file.sync();
  const bytes = await readFile(local.path);
  expect(bytes.includes('a thief')).toBe(false);
  expect(bytes.subarray(0, 1024).equals(bytes.subarray(8192, 9216))).toBe(false);
  expect(bytes.subarray(1024, 8192).every((byte) => byte === 0)).toBe(true);
});

test('with another key it reads as something else, and never fails', async () => {
  const local = await openLocal(1 << 20);
  const plain = randomBytes(4096);
  await new EncryptedFile(local, new SectorCipher(randomBytes(64))).write(plain, 4096);
  const target = Buffer.alloc(4096);
  await new EncryptedFile(local, new SectorCipher(randomBytes(64))).read(target, 4096);
  expect(target.equals(plain)).toBe(false);
});

test('parts of sectors are refused', async () => {
  const file = new EncryptedFile(await openLocal(1 << 20), new SectorCipher(randomBytes(64)));
  expect(() => file.tryRead(Buffer.alloc(512), 100)).toThrow(RangeError);
  await expect(file.write(Buffer.alloc(100), 0)).rejects.toThrow(RangeError);
  expect(() => file.writeNow(Buffer.alloc(1), 0)).toThrow(RangeError);
});
