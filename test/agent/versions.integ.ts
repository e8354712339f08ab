/** Candidates, promotion and withdrawal of images, through the command line and a real repository; no guest runs. */
import { copyFile, mkdtemp, open, readdir, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { run } from '../support/child.js';
import { Person } from '../support/collective.js';
import { COLLECTIVE_REPOSITORY } from '../support/paths.js';
import { BLOCK_BYTES, writeImage } from './disk-images.js';
import { LyingServer } from './lying-server.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

let fixture: RepositoryFixture;
let folder: string;
let pat: Person;
let ursula: Person;

beforeAll(async () => {
  fixture = await RepositoryFixture.open();
  folder = await mkdtemp(path.join(os.tmpdir(), 'versions-'));
  pat = await Person.temporary();
  ursula = await Person.temporary();
  await pat.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'demo', 'fresh');
  await writeImage(path.join(folder, '1.raw'), 64, (index) => 1 + index);
  await pat.json(['publish', 'demo', '--disk', path.join(folder, '1.raw'), '--no-boot-test']);
  await ursula.login(await fixture.server.invite('ursula', 'user', { appliances: ['demo'] }), 'ursula');
});
afterAll(async () => {
  await pat[Symbol.asyncDispose]();
  await ursula[Symbol.asyncDispose]();
  await fixture[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

/** The image with another block in the place of this one. */
const imageWith = async (block: number): Promise<string> => {
  const file = path.join(folder, `changed-${String(block)}.raw`);
  await copyFile(path.join(folder, '1.raw'), file);
  const handle = await open(file, 'r+');
  await handle.write(Buffer.alloc(BLOCK_BYTES, 0xe0 + block), 0, BLOCK_BYTES, block * BLOCK_BYTES);
  await handle.close();
  return file;
};
const publish = async (name: string, block: number, ...more: readonly string[]) =>
  pat.json(['publish', name, '--disk', await imageWith(block), '--no-boot-test', ...more]);
const newest = async (person: Person): Promise<unknown> => {
  const { updates } = (await person.json(['update', 'demo'])) as { updates: readonly Record<string, unknown>[] };
  return [updates[0]?.['newest'], updates[0]?.['isCandidate']];
};
const chunkCount = async (): Promise<number> =>
  (await readdir(path.join(fixture.folder, 'chunks'), { recursive: true })).length;
const check = async (): Promise<void> => {
  const result = await run(process.execPath, [COLLECTIVE_REPOSITORY, 'check', fixture.folder]);
  expect(result.code, result.stdout + result.stderr).toBe(0);
};

it('what is published with --for is a candidate for the publisher and those who are named', async () => {
  const reply = await publish('demo', 2, '--for', 'ursula');
  expect(reply).toMatchObject({ version: 2, candidate: true, changedBlocks: 1 });
  expect([await newest(pat), await newest(ursula)]).toEqual([
    [2, true],
    [2, true],
  ]);
  const { appliances } = (await ursula.json(['appliances'])) as { appliances: unknown };
  expect(appliances).toMatchObject([{ name: 'demo', latest: 1 }]);
});

it('who does not publish an appliance does not maintain it', async () => {
  const refused = errorOf(await ursula.run(['maintain', 'demo', '--json']));
  expect(refused).toMatchObject({ code: 'not-allowed', exitCode: 4 });
  expect(await readdir(path.join(ursula.home, 'machines'))).toEqual([]);
  expect(errorOf(await pat.run(['publish', 'demo', '--from-maintain', '--yes', '--json']))).toMatchObject({
    code: 'not-found',
  });
});

it('somebody who may not use the appliance cannot be named; the version is there all the same', async () => {
  const refused = errorOf(await pat.run(['candidates', 'demo', '--add', 'nobody', '--json']));
  expect(refused).toMatchObject({ code: 'not-found' });
  expect(await pat.json(['candidates', 'demo'])).toEqual([{ name: 'demo', version: 2, accounts: ['pat', 'ursula'] }]);
});

it('a candidate that was made before another version became the one for all is not promoted', async () => {
  expect(await publish('demo', 3)).toMatchObject({ version: 3 });
  expect(await newest(ursula)).toEqual([3, false]);
  expect(errorOf(await pat.run(['promote', 'demo@2', '--json']))).toMatchObject({ code: 'conflict', exitCode: 6 });
  expect(await newest(ursula)).toEqual([3, false]);
});

it('withdrawn, the version for all is the state before it under a new number, and no chunk is stored for that', async () => {
  const before = await chunkCount();
  expect(await pat.json(['withdraw', 'demo'])).toEqual({
    name: 'demo',
    withdrawn: 3,
    republished: { version: 4, from: 1 },
  });
  expect(await chunkCount()).toBe(before);
  expect(await newest(ursula)).toEqual([4, false]);
  await check();
});

it('a candidate that is withdrawn is gone, and nothing else changes', async () => {
  expect(await pat.json(['withdraw', 'demo@2'])).toEqual({ name: 'demo', withdrawn: 2, republished: null });
  expect(await pat.json(['candidates', 'demo'])).toEqual([]);
  expect(errorOf(await pat.run(['promote', 'demo', '--json']))).toMatchObject({ code: 'not-found' });
  expect(await newest(ursula)).toEqual([4, false]);
});

it('the only version cannot be withdrawn: there is nothing to go back to', async () => {
  expect(await publish('fresh', 5, '--candidate')).toMatchObject({ version: 1, candidate: true });
  expect(await pat.json(['promote', 'fresh'])).toEqual({ name: 'fresh', version: 1 });
  expect(errorOf(await pat.run(['withdraw', 'fresh', '--json']))).toMatchObject({ code: 'conflict' });
  await check();
});

it('a withdrawal whose last answer got lost is not done twice: asked again by its number, it changes nothing more', async () => {
  await using lying = await LyingServer.before(fixture.server.port);
  await using sam = await Person.temporary();
  const link = await fixture.server.invite('sam', 'publisher', {
    appliances: ['demo:publish'],
    throughPort: lying.port,
  });
  await sam.login(link, 'sam');
  await fixture.server.allow('sam', 'demo');
  expect(await publish('demo', 6)).toMatchObject({ version: 5 });
  lying.lie('/v1/appliances/demo/versions/5/withdrawal', () => ({
    status: 500,
    body: { code: 'internal', message: 'gone' },
  }));
  const cut = await sam.run(['withdraw', 'demo', '--json']);
  expect(errorOf(cut).code).toBe('internal');
  expect(await newest(ursula)).toEqual([6, false]);
  const again = await pat.json(['withdraw', 'demo@5']);
  expect(again).toEqual({ name: 'demo', withdrawn: 5, republished: null });
  expect(await newest(ursula)).toEqual([6, false]);
  await check();
});
