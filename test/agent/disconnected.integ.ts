/** Without the repository: what is here of each version is said in bytes, before it is started and when it cannot be. */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runOrThrow } from '../support/child.js';
import { PASSWORD, Person } from '../support/collective.js';
import { eventually } from '../support/eventually.js';
import { BLOCK_BYTES, writeImage } from './disk-images.js';
import { RepositoryFixture, errorOf } from './repository-fixture.js';

const BLOCKS = 40;
let fixture: RepositoryFixture;
let publisher: Person;
let laptop: Person;
let folder: string;
const bytesOf = (blocks: number): number => blocks * BLOCK_BYTES;
const atHand = (version: number, missingBlocks: number) => ({
  ...{ version, blocks: BLOCKS, bytes: bytesOf(BLOCKS) },
  ...{ missingBlocks, missingBytes: bytesOf(missingBlocks) },
});

beforeAll(async () => {
  fixture = await RepositoryFixture.open();
  folder = await mkdtemp(path.join(os.tmpdir(), 'images-'));
  publisher = await Person.temporary();
  laptop = await Person.temporary();
  await publisher.login(await fixture.server.invite('pat', 'publisher'), 'pat');
  await fixture.server.allow('pat', 'demo');
  await laptop.login(await fixture.server.invite('ute', 'user', { appliances: ['demo'] }), 'ute');
  await publishNext(1);
});
afterAll(async () => {
  for (const each of [publisher, laptop, fixture]) await each[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const publishNext = async (fill: number): Promise<void> => {
  const image = path.join(folder, 'image.raw');
  await writeImage(image, 2 * BLOCKS, (index) => (index < BLOCKS ? fill + index : 0));
  await publisher.json(['publish', 'demo', '--disk', `system=${image}`, '--no-boot-test']);
};

/** Reads the first so many blocks of the disk, as a guest would. */
const read = async (reference: string, blocks: number): Promise<void> => {
  const socket = path.join(folder, 'export.sock');
  await using exported = laptop.spawn(['export', reference, '--socket', socket]);
  await exported.waitFor(/Serving disk/);
  if (blocks > 0) {
    const words = ['-r', '-f', 'raw', '-c', `read 0 ${bytesOf(blocks)}`, `nbd+unix:///?socket=${socket}`];
    await runOrThrow('qemu-io', words);
  }
  await exported.stop('SIGINT');
};

const listed = async (): Promise<unknown> =>
  ((await laptop.json(['appliances']))['appliances'] as { readonly atHand?: unknown }[])[0]?.atHand;

it('a version whose maps are here is listed with what it lacks, also without the repository and after a login without it', async () => {
  expect(await listed()).toEqual([]);
  await read('demo', 0);
  expect(await listed()).toEqual([atHand(1, BLOCKS)]);
  await fixture.server.process.stop('SIGKILL');
  try {
    await laptop.json(['logout']);
    await laptop.json(['shutdown']);
    await laptop.json(['login', '--password-stdin'], { input: `${PASSWORD}\n` });
    expect(await laptop.json(['appliances'])).toMatchObject({ connected: false });
    expect(await listed()).toEqual([atHand(1, BLOCKS)]);
  } finally {
    await fixture.server.restart();
  }
});

it('what was read is not missing any more, and people see it in megabytes', async () => {
  await read('demo', BLOCKS);
  expect(await listed()).toEqual([atHand(1, 0)]);
  await publishNext(101);
  await read('demo', 0);
  expect(await listed()).toEqual([atHand(2, BLOCKS), atHand(1, 0)]);
  const { stdout } = await laptop.run(['appliances']);
  expect(stdout).toMatch(/demo\s+2\s+use\s+2: missing 2\.6 MB of 2\.6 MB, 1: all 2\.6 MB/);
});

it('a start without the repository says what is missing before it begins, and is not refused for it', async () => {
  await fixture.server.process.stop('SIGKILL');
  try {
    await using starting = laptop.spawn(['start', 'demo@2', '--accel', 'tcg']);
    await starting.waitFor(/demo@2: missing 2\.6 MB of 2\.6 MB\. Without the repository it is paused/);
    // Its first block is missing, so that no guest begins; Ctrl-C takes it back.
    await starting.stop('SIGINT');
    await eventually('nothing is being started any more', 240_000, async () => {
      const machines = (await laptop.json(['status']))['machines'] as readonly { readonly state: string }[];
      return machines.every(({ state }) => state === 'stopped' || state === 'failed') ? true : undefined;
    });
  } finally {
    await fixture.server.restart();
  }
});

it('one that cannot be started without the repository says which versions are here', async () => {
  await publishNext(51);
  await laptop.json(['appliances']); // which brings the news that there is a third version, and nothing of it
  await fixture.server.process.stop('SIGKILL');
  try {
    const refused = errorOf(await laptop.run(['start', 'demo', '--json']));
    expect(refused).toMatchObject({ code: 'repository-unreachable', exitCode: 7 });
    expect(refused.message).toMatch(
      /What is here: demo@2 \(missing 2\.6 MB of 2\.6 MB\), demo@1 \(everything is here \(2\.6 MB\)\)\.$/,
    );
    const nothing = errorOf(await laptop.run(['start', 'other', '--json']));
    expect(nothing.code).toBe('not-found');
  } finally {
    await fixture.server.restart();
  }
});

it('a revoked device can still be started with what is here, and removed', async () => {
  await using desk = await Person.temporary();
  const link = fixture.adminLink.replace(/\.invite\..*$/, '');
  const words = ['login', link, '--account', 'ute', '--password-stdin', '--device-name', 'desk'];
  await desk.json(words, { input: `${PASSWORD}\n` });
  const { devices } = (await desk.json(['devices'])) as unknown as { devices: { device: string; isThis: boolean }[] };
  await desk.json(['devices', 'revoke', devices.find(({ isThis }) => !isThis)?.device ?? '']);
  const started = await laptop.run(['start', 'demo@1', '--accel', 'tcg', '--json']);
  expect([started.code, started.stdout, started.stderr]).toEqual([
    0,
    expect.stringContaining('"demo"'),
    expect.stringContaining('This device has been revoked'),
  ]);
  expect(errorOf(await laptop.run(['appliances', '--json']))).toMatchObject({ code: 'device-revoked' });
  expect(errorOf(await laptop.run(['logout', '--remove', '--json']))).toMatchObject({ code: 'in-use' });
  await laptop.json(['stop', 'demo', '--force']);
  expect(await laptop.json(['logout', '--remove'])).toMatchObject({ removed: true, notes: [] });
});
