import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { MeteredLink } from './metered-link.js';
import { writeSettings } from './settings-file.js';

let folder: string;
let file: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'metered-'));
  file = path.join(folder, 'settings.json');
});
afterEach(async () => rm(folder, { recursive: true, force: true }));

it.each([
  ['u 0\n', false],
  ['u 1\n', true],
  ['u 2\n', false],
  ['u 3\n', true],
  ['u 4\n', false],
  ['s "yes"\n', false],
])('the system that says %j', async (said, isMetered) => {
  expect(await new MeteredLink(file, () => Promise.resolve(said)).isMetered()).toBe(isMetered);
});

it('is not metered where there is no such system', async () => {
  const link = new MeteredLink(file, () => Promise.reject(new Error('spawn busctl ENOENT')));
  expect(await link.isMetered()).toBe(false);
});

it('is what the person says, whatever the system says, at once', async () => {
  let asked = 0;
  const link = new MeteredLink(file, () => {
    asked += 1;
    return Promise.resolve('u 1');
  });
  expect(await link.isMetered()).toBe(true);
  expect(await link.isMetered()).toBe(true);
  expect(asked).toBe(1);
  await writeSettings(file, { tellTraces: true, metered: 'off' });
  expect(await link.isMetered()).toBe(false);
  await writeSettings(file, { tellTraces: true, metered: 'on' });
  expect(await link.isMetered()).toBe(true);
});

it('takes a file of before there was this setting', async () => {
  await writeFile(file, '{"format":1,"tellTraces":false}');
  expect(await new MeteredLink(file, () => Promise.resolve('u 1')).isMetered()).toBe(true);
});
