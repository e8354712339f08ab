/** `collective hoard` by the command line: a version is brought in whole, runs with the repository gone, and makes room for the next one. */
import { copyFile, open, readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ControlClient } from '@collective/transceiver';
import type { Person } from '../support/collective.js';
import { errorOf } from './repository-fixture.js';
import { TinyPublished } from './tiny-published.js';

let tiny: TinyPublished;
let pat: Person;
let ben: Person;

beforeAll(async () => {
  tiny = await TinyPublished.open();
  ({ pat, ben } = tiny);
});
afterAll(async () => tiny[Symbol.asyncDispose]());

const kept = async (): Promise<unknown> =>
  (JSON.parse(await readFile(path.join(ben.home, 'hoard.json'), 'utf8')) as { readonly versions: unknown }).versions;
const missing = async (version: number): Promise<unknown> => (await tiny.atHand(version))?.missingBlocks;

it('a version that is hoarded runs with the repository gone', async () => {
  const reply = await ben.json(['hoard', 'tiny']);
  expect(reply).toMatchObject({ name: 'tiny', version: 1 });
  expect(Number(reply['blocks'])).toBeGreaterThan(20);
  expect(await missing(1)).toBe(0);
  expect(await kept()).toEqual([{ appliance: 'tiny', version: 1 }]);
  tiny.link.down();
  try {
    await ben.json(['start', 'tiny', '--accel', 'tcg', '--wait-for', 'TINY READY', '--wait-seconds', '240']);
    await ben.json(['stop', 'tiny', '--force']);
  } finally {
    tiny.link.up();
  }
});

it('the next one takes its place, of which only what changed is fetched', async () => {
  // The last 64 KiB of the system disk are free.
  const changed = path.join(tiny.folder, 'system.raw');
  await copyFile(path.join(tiny.image, 'system.raw'), changed);
  const file = await open(changed, 'r+');
  const { size } = await file.stat();
  await file.write(Buffer.alloc(65_536, 0xe5), 0, 65_536, size - 65_536);
  await file.close();
  await pat.json(['publish', 'tiny', '--disk', `system=${changed}`, '--no-boot-test']);
  const blockd = await ControlClient.connect(path.join(ben.home, 'run/blockd.sock'));
  const filled = async (): Promise<number> => (await blockd.request('status', {})).cache.filled;
  const before = await filled();
  expect(await ben.json(['hoard', 'tiny'])).toMatchObject({ version: 2 });
  expect((await filled()) - before).toBe(1);
  blockd.close();
  expect(await missing(2)).toBe(0);
  expect(await kept()).toEqual([{ appliance: 'tiny', version: 2 }]);
});

it('is not kept any more when the person says so, and is here still', async () => {
  expect(await ben.json(['hoard', 'tiny', '--off'])).toMatchObject({ version: null });
  expect(await kept()).toEqual([]);
  expect(await missing(2)).toBe(0);
  expect(errorOf(await ben.run(['hoard', 'tiny', '--off', '--json']))).toMatchObject({ code: 'not-found' });
});
