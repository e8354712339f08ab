/** Keys of machines outside the home's disk: who finds them again, and when they are gone. */
import { randomBytes } from 'node:crypto';
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { beforeEach, expect, onTestFinished, test } from 'vitest';
import { openHome, type Home } from '../home.js';
import { DiskKeys } from './disk-keys.js';

const key = randomBytes(64).toString('base64url');
let parent: string;
let home: Home;
/** The home as a process sees it that was started with this XDG_RUNTIME_DIR. */
const homeIn = async (runtime: string): Promise<Home> =>
  openHome(path.join(parent, 'home'), { XDG_RUNTIME_DIR: runtime });

beforeEach(async () => {
  parent = await mkdtemp(path.join(os.tmpdir(), 'disk-keys-'));
  onTestFinished(() => rm(parent, { recursive: true, force: true }));
  for (const name of ['one', 'two']) await mkdir(path.join(parent, name), { mode: 0o700 });
  home = await homeIn(path.join(parent, 'one'));
});

test('a key lies in the runtime directory, for its owner alone, and the home has only a link', async () => {
  const keys = await DiskKeys.open(home);
  await keys.keep('one', { diskKey: key });
  const folder = await readlink(path.join(home.directory, 'run/disk-keys'));
  expect(folder.startsWith(path.join(parent, 'one'))).toBe(true);
  expect((await stat(folder)).mode & 0o777).toBe(0o700);
  expect((await stat(path.join(folder, 'one'))).mode & 0o777).toBe(0o600);
  expect(await readFile(path.join(folder, 'one'), 'latin1')).toBe(key);
});

test('a later supervisor finds it, also one that was started with another runtime directory', async () => {
  await (await DiskKeys.open(home)).keep('one', { diskKey: key });
  const later = await DiskKeys.open(await homeIn(path.join(parent, 'two')));
  expect(await later.read('one')).toEqual({ diskKey: key });
  expect(await later.read('two')).toEqual({});
});

test('where the runtime directory is gone, as after a restart of the computer, there are no keys and a new place for them', async () => {
  await (await DiskKeys.open(home)).keep('one', { diskKey: key });
  await rm(path.join(parent, 'one'), { recursive: true });
  const later = await DiskKeys.open(await homeIn(path.join(parent, 'two')));
  expect(await later.read('one')).toEqual({});
  await later.keep('one', { diskKey: key });
  expect(await later.read('one')).toEqual({ diskKey: key });
});

test('a key is overwritten and gone when its machine is over, when it starts without one, and when nobody knows the machine', async () => {
  const keys = await DiskKeys.open(home);
  const folder = await readlink(home.diskKeysFolder);
  for (const machine of ['one', 'two', 'three']) await keys.keep(machine, { diskKey: key });
  await keys.forget('one');
  await keys.forget('one');
  await keys.keep('two', {});
  expect(await readdir(folder)).toEqual(['three']);
  await keys.forgetAllBut(['four']);
  expect(await readdir(folder)).toEqual([]);
});

test('keys of blocks lie beside it, alone or together; they are replaced as a whole, and torn ones are none', async () => {
  const keys = await DiskKeys.open(home);
  const file = path.join(await readlink(home.diskKeysFolder), 'one');
  const keyOf = (fill: number): string => Buffer.alloc(32, fill).toString('base64url');
  const epoch = (number: number) => ({ epoch: number, blockNameKey: keyOf(number), chunkKey: keyOf(number + 100) });
  await keys.keep('one', { blockKeys: [epoch(1)] });
  expect(await keys.read('one')).toEqual({ blockKeys: [epoch(1)] });
  const both = { diskKey: key, blockKeys: [epoch(1), epoch(2)] };
  await keys.keep('one', both);
  expect(await keys.read('one')).toEqual(both);
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  const whole = await readFile(file, 'latin1');
  for (const torn of [whole.slice(0, -1), whole.slice(0, 120), `${whole}\n`, whole.replace('"epoch":1', '"epoch":0')]) {
    await writeFile(file, torn);
    expect(await keys.read('one')).toEqual({});
  }
  await keys.forget('one');
  expect(await readdir(path.dirname(file))).toEqual([]);
});

test('a torn file is no key', async () => {
  const keys = await DiskKeys.open(home);
  await writeFile(path.join(await readlink(home.diskKeysFolder), 'one'), key.slice(0, 40));
  expect(await keys.read('one')).toEqual({});
});

test('without a runtime directory it is a folder in run/', async () => {
  const keys = await DiskKeys.open({ ...home, sessionDirectory: path.join(home.directory, 'run') });
  await keys.keep('one', { diskKey: key });
  expect((await lstat(home.diskKeysFolder)).isDirectory()).toBe(true);
  expect(
    await (await DiskKeys.open({ ...home, sessionDirectory: path.join(home.directory, 'run') })).read('one'),
  ).toEqual({
    diskKey: key,
  });
});
