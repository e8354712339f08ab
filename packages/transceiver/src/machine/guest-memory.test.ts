import { createCipheriv, hkdfSync } from 'node:crypto';
import { mkdtemp, open, rm, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { copyMemory } from './guest-memory.js';
import { ImageCipher } from './image-cipher.js';

const MIB = 1 << 20;

const setUp = async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'guest-memory-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return async (name: string, bytes?: Buffer) => {
    const file = await open(path.join(folder, name), 'w+');
    onTestFinished(() => file.close());
    if (bytes !== undefined) await file.write(bytes, 0, bytes.length, 0);
    return { file, path: path.join(folder, name) };
  };
};

test('memory is copied byte for byte, only what is used takes room, and the digest tells any other memory from it', async () => {
  const make = await setUp();
  const bytes = Buffer.alloc(8 * MIB + 12_288);
  bytes.fill(7, 4_096, 8_192);
  bytes.fill(9, 5 * MIB - 4_096, 5 * MIB + 4_096);
  bytes[bytes.length - 1] = 1;
  const from = await make('from', bytes);
  const to = await make('to');
  await to.file.truncate(bytes.length);
  const digest = await copyMemory(from.file, to.file, { byteLength: bytes.length });
  const copy = Buffer.alloc(bytes.length);
  await to.file.read(copy, 0, copy.length, 0);
  expect(copy.equals(bytes)).toBe(true);
  expect((await stat(to.path)).blocks * 512).toBeLessThan(MIB);
  const back = await make('back');
  expect(await copyMemory(to.file, back.file, { byteLength: bytes.length })).toBe(digest);
  await to.file.write(Buffer.of(8), 0, 1, 4_100);
  expect(await copyMemory(to.file, back.file, { byteLength: bytes.length })).not.toBe(digest);
  // The same pieces in other places are other memory.
  const [low, high] = [Buffer.alloc(3 * MIB), Buffer.alloc(3 * MIB)];
  low[0] = 1;
  high[2 * MIB] = 1;
  const [first, second] = [await make('low', low), await make('high', high)];
  expect(await copyMemory(first.file, back.file, { byteLength: 3 * MIB })).not.toBe(
    await copyMemory(second.file, back.file, { byteLength: 3 * MIB }),
  );
});

test('encrypted memory has nothing of it in its file but which pages are zero, and comes back; the digest is of the file', async () => {
  const make = await setUp();
  const bytes = Buffer.alloc(3 * MIB + 8_192);
  const secret = Buffer.from('what was in memory, page by page');
  for (const page of [0, 1, 20, 255, 256, 700, 769])
    bytes.fill(Buffer.concat([secret, Buffer.of(page & 0xff)]), page * 4_096, page * 4_096 + 4_000);
  const cipherOf = (imageId: string): ImageCipher => new ImageCipher(Buffer.alloc(64, 5), { imageId, part: 'ram' });
  const from = await make('from', bytes);
  const [stored, other, back] = [await make('stored'), await make('other'), await make('back')];
  for (const { file } of [stored, other, back]) await file.truncate(bytes.length);
  const byteLength = bytes.length;
  const digest = await copyMemory(from.file, stored.file, { byteLength, encrypt: cipherOf('aa') });
  expect(await copyMemory(from.file, other.file, { byteLength, encrypt: cipherOf('bb') })).not.toBe(digest);
  const found = Buffer.alloc(byteLength);
  await stored.file.read(found, 0, byteLength, 0);
  expect(found.includes(secret.subarray(0, 8))).toBe(false);
  expect(found.subarray(2 * 4_096, 20 * 4_096).every((byte) => byte === 0)).toBe(true);
  expect((await stat(stored.path)).blocks * 512).toBeLessThan(MIB);
  expect(await copyMemory(stored.file, back.file, { byteLength, decrypt: cipherOf('aa') })).toBe(digest);
  await back.file.read(found, 0, byteLength, 0);
  expect(found.equals(bytes)).toBe(true);
});

test('an image’s cipher is AES-256-CTR counted from the beginning of the file, in pieces of any length', () => {
  const bytes = Buffer.alloc(300_000, 'plain');
  const key = hkdfSync('sha256', Buffer.alloc(64, 5), new Uint8Array(0), 'collective memory image v1 cc devices', 32);
  const foreign = createCipheriv('aes-256-ctr', new Uint8Array(key), Buffer.alloc(16)).update(bytes);
  const cipher = new ImageCipher(Buffer.alloc(64, 5), { imageId: 'cc', part: 'devices' });
  const stream = cipher.stream();
  const pieces = [0, 1, 17, 70_000, 300_000].map((end, index, all) => bytes.subarray(all[index - 1] ?? 0, end));
  const found = pieces.map((piece) => {
    const target = Buffer.alloc(piece.length);
    stream.update(piece, target);
    return target;
  });
  expect(Buffer.concat(found).equals(foreign)).toBe(true);
  const rest = Buffer.from(bytes.subarray(4_096));
  cipher.apply(rest, 4_096);
  expect(rest.equals(foreign.subarray(4_096))).toBe(true);
});

test('memory that ends early is an error, and an abort ends the copying', async () => {
  const make = await setUp();
  const from = await make('from', Buffer.alloc(MIB, 1));
  const to = await make('to');
  await expect(copyMemory(from.file, to.file, { byteLength: 2 * MIB })).rejects.toMatchObject({ code: 'local-io' });
  const signal = AbortSignal.abort(new Error('enough'));
  await expect(copyMemory(from.file, to.file, { byteLength: MIB, signal })).rejects.toThrow('enough');
});

test('a sync along the way that fails fails the copy, though the kernel tells of it once only', async () => {
  const make = await setUp();
  const bytes = Buffer.alloc(40 * MIB, 3);
  const from = await make('from', bytes);
  const to = await make('to');
  const synced = vi.spyOn(to.file, 'datasync');
  await copyMemory(from.file, to.file, { byteLength: bytes.length });
  expect(synced).not.toHaveBeenCalled();
  await copyMemory(from.file, to.file, { byteLength: bytes.length, isSyncedSoon: true });
  expect(synced).toHaveBeenCalled();
  synced.mockRejectedValueOnce(new Error('Input/output error'));
  await expect(copyMemory(from.file, to.file, { byteLength: bytes.length, isSyncedSoon: true })).rejects.toThrow(
    'Input/output error',
  );
});
