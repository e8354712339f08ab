/** `collective hoard` by the command line: a version is brought in whole, runs with the repository gone, and makes room for the next one. */
import { mkdtemp, readFile, rm, copyFile, open } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ControlClient } from '@collective/transceiver';
import { runOrThrow } from '../support/child.js';
import { Person } from '../support/collective.js';
import { Link } from '../support/link.js';
import { BUILD, ROOT } from '../support/paths.js';
import { errorOf, RepositoryFixture } from './repository-fixture.js';

let fixture: RepositoryFixture;
let folder: string;
let pat: Person;
let ben: Person;
let link: Link;
let image: string;

beforeAll(async () => {
  image = path.join(BUILD, 'images', 'tiny');
  await runOrThrow('bash', [path.join(ROOT, 'images', 'tiny', 'build.sh'), image], { timeoutMs: 280_000 });
  fixture = await RepositoryFixture.open();
  folder = await mkdtemp(path.join(os.tmpdir(), 'hoard-'));
  pat = await Person.temporary();
  ben = await Person.temporary();
  await pat.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'tiny');
  await pat.json(['publish', 'tiny', '--machine', path.join(image, 'appliance.json'), '--no-boot-test']);
  link = await Link.open({ toPort: fixture.server.port, profile: 'lan' });
  const invitation = { appliances: ['tiny'], throughPort: link.port };
  await ben.login(await fixture.server.invite('ben', 'user', invitation), 'ben');
});
afterAll(async () => {
  await pat[Symbol.asyncDispose]();
  await ben[Symbol.asyncDispose]();
  await link.close();
  await fixture[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const kept = async (): Promise<unknown> =>
  (JSON.parse(await readFile(path.join(ben.home, 'hoard.json'), 'utf8')) as { readonly versions: unknown }).versions;
const missing = async (version: number): Promise<unknown> => {
  const { appliances } = (await ben.json(['appliances'])) as {
    readonly appliances: readonly { readonly atHand?: readonly { version: number; missingBlocks: number }[] }[];
  };
  return appliances[0]?.atHand?.find((each) => each.version === version)?.missingBlocks;
};

it('a version that is hoarded runs with the repository gone', async () => {
  const reply = await ben.json(['hoard', 'tiny']);
  expect(reply).toMatchObject({ name: 'tiny', version: 1 });
  expect(Number(reply['blocks'])).toBeGreaterThan(20);
  expect(await missing(1)).toBe(0);
  expect(await kept()).toEqual([{ appliance: 'tiny', version: 1 }]);
  link.down();
  try {
    await ben.json(['start', 'tiny', '--accel', 'tcg', '--wait-for', 'TINY READY', '--wait-seconds', '240']);
    await ben.json(['stop', 'tiny', '--force']);
  } finally {
    link.up();
  }
});

it('the next one takes its place, of which only what changed is fetched', async () => {
  // The last 64 KiB of the system disk are free.
  const changed = path.join(folder, 'system.raw');
  await copyFile(path.join(image, 'system.raw'), changed);
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
