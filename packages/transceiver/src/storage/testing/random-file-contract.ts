/** What every RandomFile does, for positions and lengths of whole sectors (file-system.ts). */
import { randomFillSync } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { hasCode } from '@collective/shared';
import type { RandomFile } from '../file-system.js';

const SECTOR = 512;
const FILE_BYTES = 4 << 20;

const randomBytes = (byteLength: number): Buffer => randomFillSync(Buffer.alloc(byteLength));

/** `open` gives a new file of `FILE_BYTES` that reads as zeroes; it is closed by whoever made it. */
export const randomFileContract = (name: string, open: (byteLength: number) => Promise<RandomFile>): void => {
  describe(`${name}, as every random file`, () => {
    const readAll = async (file: RandomFile, byteOffset: number, byteLength: number): Promise<Buffer> => {
      const target = Buffer.alloc(byteLength, 0xaa);
      await file.read(target, byteOffset);
      const atOnce = Buffer.alloc(byteLength, 0x55);
      // What was just read is in memory; a try may still say that it would wait, but never give something else.
      if (file.tryRead(atOnce, byteOffset)) expect(atOnce.equals(target)).toBe(true);
      return target;
    };

    test('a new one reads as zeroes', async () => {
      const file = await open(FILE_BYTES);
      expect(await readAll(file, 8 * SECTOR, 64 * SECTOR)).toEqual(Buffer.alloc(64 * SECTOR));
      expect(await file.byteLength()).toBe(FILE_BYTES);
      expect(file.byteLengthNow()).toBe(FILE_BYTES);
    });

    test('gives back what each kind of write wrote, and nothing beside it changes', async () => {
      const file = await open(FILE_BYTES);
      const writes: { readonly at: number; readonly bytes: Buffer }[] = [
        { at: 0, bytes: randomBytes(SECTOR) },
        { at: 3 * SECTOR, bytes: randomBytes(2 * SECTOR) },
        { at: 1 << 20, bytes: randomBytes(300 * SECTOR) },
        { at: 2 << 20, bytes: randomBytes(1 << 20) },
        { at: FILE_BYTES - SECTOR, bytes: randomBytes(SECTOR) },
      ];
      const model = Buffer.alloc(FILE_BYTES);
      for (const [index, { at, bytes }] of writes.entries()) {
        const kept = Buffer.from(bytes);
        if (index % 3 === 0 && file.mayTryWrite(bytes.length)) {
          if (!file.tryWrite(bytes, at)) await file.write(bytes, at);
        } else if (index % 3 === 1) file.writeNow(bytes, at);
        else await file.write(bytes, at);
        expect(bytes.equals(kept)).toBe(true); // what is borrowed is not changed
        bytes.copy(model, at);
      }
      expect((await readAll(file, 0, FILE_BYTES)).equals(model)).toBe(true);
      const overwritten = randomBytes(5 * SECTOR);
      await file.write(overwritten, (1 << 20) + 7 * SECTOR);
      overwritten.copy(model, (1 << 20) + 7 * SECTOR);
      await file.sync();
      file.dropFromMemory(0, FILE_BYTES);
      expect((await readAll(file, 0, FILE_BYTES)).equals(model)).toBe(true);
    });

    test('zeroes written as data and zeroed ranges read as zeroes', async () => {
      const file = await open(FILE_BYTES);
      await file.write(randomBytes(64 * SECTOR), 0);
      await file.write(Buffer.alloc(4 * SECTOR), 2 * SECTOR);
      await file.zero(16 * SECTOR, 16 * SECTOR, { keepAllocated: false });
      await file.zero(40 * SECTOR, 8 * SECTOR, { keepAllocated: true });
      const bytes = await readAll(file, 0, 64 * SECTOR);
      for (const [start, end] of [
        [2, 6],
        [16, 32],
        [40, 48],
      ] as const)
        expect(bytes.subarray(start * SECTOR, end * SECTOR).every((byte) => byte === 0)).toBe(true);
      expect(bytes.subarray(6 * SECTOR, 16 * SECTOR).some((byte) => byte !== 0)).toBe(true);
    });

    test('many reads and writes at once do not disturb each other', async () => {
      const file = await open(FILE_BYTES);
      const parts = Array.from({ length: 32 }, (_unused, index) => ({
        at: index * 64 * SECTOR,
        bytes: randomBytes((index + 1) * 2 * SECTOR),
      }));
      await Promise.all(parts.map(async ({ at, bytes }) => file.write(bytes, at)));
      const read = await Promise.all(parts.map(async ({ at, bytes }) => readAll(file, at, bytes.length)));
      for (const [index, { bytes }] of parts.entries()) expect(read[index]?.equals(bytes)).toBe(true);
    });

    test('what lies beyond the end is an error, and a longer file reads as zeroes there', async () => {
      const file = await open(FILE_BYTES);
      expect(file.tryRead(Buffer.alloc(2 * SECTOR), FILE_BYTES - SECTOR)).toBe(false);
      await expect(file.read(Buffer.alloc(2 * SECTOR), FILE_BYTES - SECTOR)).rejects.toSatisfy((error) =>
        hasCode(error, 'local-io'),
      );
      await file.setByteLength(FILE_BYTES + 8 * SECTOR);
      expect(await readAll(file, FILE_BYTES, 8 * SECTOR)).toEqual(Buffer.alloc(8 * SECTOR));
    });

    test('its extents cover the range exactly, and call nothing a hole that was written', async () => {
      const file = await open(FILE_BYTES);
      await file.write(randomBytes(128 * SECTOR), 1 << 20);
      const extents = file.extents(0, FILE_BYTES);
      expect(extents.reduce((sum, { byteLength }) => sum + byteLength, 0)).toBe(FILE_BYTES);
      let position = 0;
      for (const { byteLength, kind } of extents) {
        const overlaps = position < (1 << 20) + 128 * SECTOR && position + byteLength > 1 << 20;
        if (overlaps) expect(kind).toBe('data');
        position += byteLength;
      }
    });
  });
};
