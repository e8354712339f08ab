import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { hasCode } from '@collective/shared';
import { takeLocalLock } from './local-lock.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'local-lock-'));
});
afterEach(() => rm(folder, { recursive: true }));

const inUse = (error: unknown): boolean => hasCode(error, 'in-use');

describe('takeLocalLock', () => {
  it('is taken once at a time, and again after its release', async () => {
    const lock = await takeLocalLock(join(folder, 'a'));
    await expect(takeLocalLock(join(folder, 'a'))).rejects.toSatisfy(inUse);
    await lock.release();
    await (await takeLocalLock(join(folder, 'a'))).release();
  });

  it('locks whose files a power cut filled with zeroes, or cut short, are still different locks', async () => {
    // The tokens are not synced: with zeroes taken for a token, the second disk of a machine could not be opened (`in-use`).
    for (const length of [7, 16, 40]) {
      const paths = ['a', 'b'].map((name) => join(folder, `${name}${length}`));
      for (const path of paths) await writeFile(path, Buffer.alloc(length));
      const locks = [];
      for (const path of paths) locks.push(await takeLocalLock(path));
      for (const path of paths) await expect(takeLocalLock(path)).rejects.toSatisfy(inUse);
      for (const lock of locks) await lock.release();
    }
  });
});
