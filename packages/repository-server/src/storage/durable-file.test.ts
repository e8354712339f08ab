/** In which order durable files reach the disk; what a power cut makes of it is the simulation's. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CollectiveError } from '@collective/shared';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DurableFiles } from './durable-file.js';
import { type FileSystem } from './file-system.js';
import { localFileSystem } from './local-file-system.js';

let folder: string;
let calls: string[];
let failing: string | undefined;
/** The real disk, with the calls that count written down and one of them failing on request. */
const recording = (): FileSystem => ({
  ...localFileSystem,
  createSynced: (path, bytes, mode) =>
    note('createSynced', path, () => localFileSystem.createSynced(path, bytes, mode)),
  rename: (from, to) => note('rename', to, () => localFileSystem.rename(from, to)),
  link: (from, to) => note('link', to, () => localFileSystem.link(from, to)),
  makeFolder: (path, mode) => note('makeFolder', path, () => localFileSystem.makeFolder(path, mode)),
  syncFolder: (path) => note('syncFolder', path, () => localFileSystem.syncFolder(path)),
});
const note = <T>(call: string, path: string, work: () => Promise<T>): Promise<T> => {
  const name = path.replace(folder, '').replace(/[0-9a-f-]{36}/, 'TEMP');
  calls.push(`${call} ${name === '' ? '/' : name}`);
  if (calls.at(-1) === failing) return Promise.reject(new CollectiveError('local-io', failing));
  return work();
};

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'durable-file-'));
  await mkdir(join(folder, 'tmp'));
  calls = [];
  failing = undefined;
});
afterEach(() => rm(folder, { recursive: true, force: true }));

test('a folder that is found is synced like one that is made, by each process once: its maker may have died before', async () => {
  await mkdir(join(folder, 'a', 'b'), { recursive: true });
  const files = new DurableFiles(recording(), folder);
  await files.replace(join(folder, 'a', 'b', 'x'), Buffer.from('1'));
  const folders = ['makeFolder /a', 'syncFolder /', 'makeFolder /a/b', 'syncFolder /a'];
  const file = ['createSynced /tmp/TEMP', 'rename /a/b/x', 'syncFolder /a/b'];
  expect(calls).toEqual([file[0], ...folders, file[1], file[2]]);
  calls = [];
  await files.replace(join(folder, 'a', 'b', 'x'), Buffer.from('2'));
  expect(calls).toEqual(file);
});

test('a name that is taken is left alone; one that is new is synced', async () => {
  const files = new DurableFiles(recording(), folder);
  const path = join(folder, 'x');
  expect([await files.create(path, Buffer.from('1')), await files.create(path, Buffer.from('2'))]).toEqual([
    true,
    false,
  ]);
  expect(calls.filter((call) => call === 'syncFolder /')).toHaveLength(1);
  expect((await localFileSystem.read(path))?.toString()).toBe('1');
});

test('many files: all data, then all names, then each folder once', async () => {
  const files = new DurableFiles(recording(), folder);
  for (const name of ['a', 'b']) await mkdir(join(folder, name));
  await files.replaceMany(
    ['a/1', 'a/2', 'b/1'].map((name) => ({ path: join(folder, name), bytes: Buffer.from(name) })),
  );
  expect(calls.map((call) => call.split(' ')[0])).toEqual([
    ...Array<string>(3).fill('createSynced'),
    ...Array<string>(3).fill('rename'),
    ...Array<string>(2).fill('syncFolder'),
  ]);
});

test.each(['createSynced /tmp/TEMP', 'rename /x', 'link /x'])(
  '%s fails: the name is untouched, tmp is empty',
  async (call) => {
    const files = new DurableFiles(recording(), folder);
    failing = call;
    const work =
      call === 'link /x'
        ? files.create(join(folder, 'x'), Buffer.from('1'))
        : files.replace(join(folder, 'x'), Buffer.from('1'));
    await expect(work).rejects.toMatchObject({ code: 'local-io' });
    expect(await localFileSystem.stat(join(folder, 'x'))).toBeUndefined();
    expect(await localFileSystem.list(join(folder, 'tmp'))).toEqual([]);
  },
);

test('a sync of the folder that fails is an error', async () => {
  const files = new DurableFiles(recording(), folder);
  failing = 'syncFolder /';
  await expect(files.create(join(folder, 'x'), Buffer.from('1'))).rejects.toMatchObject({ code: 'local-io' });
});
