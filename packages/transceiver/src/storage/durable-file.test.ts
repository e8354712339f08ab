import { mkdtemp, rm, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { makeFolderDurably, writeDurably } from './durable-file.js';

test('folders are made with those that they lie in, for the owner alone; one that is there is fine, a file in the way is not', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'durable-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  const made = path.join(folder, 'a/b/c');
  await makeFolderDurably(made);
  await makeFolderDurably(made);
  for (const each of ['a', 'a/b', 'a/b/c']) expect((await stat(path.join(folder, each))).mode & 0o777).toBe(0o700);
  await writeDurably(path.join(folder, 'file'), 'x');
  await expect(makeFolderDurably(path.join(folder, 'file/d'))).rejects.toMatchObject({ code: 'ENOTDIR' });
});
