import { appendFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { trimLog } from './bounded-log.js';

test('a log that has grown too long keeps its last whole lines, and can be appended to', async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-log-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const file = path.join(folder, 'x.log');
  await writeFile(file, Array.from({ length: 100 }, (_, index) => `line ${index}\n`).join(''));
  await trimLog(file, 10_000);
  expect((await readFile(file, 'utf8')).startsWith('line 0\n')).toBe(true);
  await trimLog(file, 200);
  await appendFile(file, 'more\n');
  const text = await readFile(file, 'utf8');
  expect(text.length).toBeLessThan(120);
  expect(text).toMatch(/^line 8\d\n(line \d+\n)*line 99\nmore\n$/);
  await trimLog(path.join(folder, 'none'));
});
