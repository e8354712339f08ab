import { readlinkSync } from 'node:fs';
import { type FileHandle, mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { DiskMap, sha256, type Digest } from '@collective/shared';
import type { BaseFile } from '../blockd/base/base-file.js';
import { BaseFolder, initialState } from './base-file.js';

const SHAPE = { diskBytes: 5 * 4_096, blockBytes: 4_096 };
const block = (text: string): Digest => sha256(Buffer.from(text));

let folder: string;
let bases: BaseFolder;
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'base-file-'));
  bases = await BaseFolder.open(folder);
});
afterEach(async () => rm(folder, { recursive: true, force: true }));

/** A state in two lists over an initial disk. */
const written = async (): Promise<{ readonly file: BaseFile; readonly state: DiskMap; readonly initial: DiskMap }> => {
  const initial = DiskMap.empty(SHAPE);
  initial.set(0, { kind: 'public', digest: block('initial') });
  const first = initialState(SHAPE, true);
  first.set(1, { kind: 'private', digest: block('one') });
  const second = first.clone();
  second.set(1, { kind: 'zero' });
  second.set(2, { kind: 'private', digest: block('two') });
  const maps = [
    await bases.putMap(first.changesSince(initialState(SHAPE, true))),
    await bases.putMap(second.changesSince(first)),
  ];
  const map = await bases.putMap(initial.changesSince(undefined));
  const file: BaseFile = {
    ...{ format: 1, subscription: '5'.repeat(32), number: 2, ...SHAPE, root: second.build().root, maps },
    base: { appliance: 'debian', version: 1, root: initial.build().root, map },
    objects: [1, 2],
  };
  return { file, state: second, initial };
};

/** The paths that are synced from now on. */
const watchSyncs = async (): Promise<Set<string>> => {
  const probe = await open(folder);
  const handles = Object.getPrototypeOf(probe) as Pick<FileHandle, 'sync'>;
  await probe.close();
  const { sync } = handles;
  const synced = new Set<string>();
  const spy = vi.spyOn(handles, 'sync').mockImplementation(function (this: FileHandle) {
    synced.add(path.relative(folder, readlinkSync(`/proc/self/fd/${this.fd}`)));
    return sync.call(this);
  });
  onTestFinished(() => spy.mockRestore());
  return synced;
};

describe('a base file', () => {
  it('is durable when it was put, also when one who was killed before he had synced its folder, or made that, was here before', async () => {
    const { file } = await written();
    await bases.putBase(file);
    const synced = await watchSyncs();
    const later = await BaseFolder.open(folder);
    expect([...synced]).toEqual(['']); // the names of `bases` and `maps`
    synced.clear();
    await later.putMap(DiskMap.empty(SHAPE).changesSince(undefined));
    synced.clear();
    await later.putMap(DiskMap.empty(SHAPE).changesSince(undefined));
    await later.putBase(file);
    expect([...synced]).toEqual(['maps', 'bases']);
  });

  it('leads to the state and to the initial disk', async () => {
    const { file, state, initial } = await written();
    const named = await bases.putBase(file);
    const found = await bases.base(named.name);
    expect(found).toEqual(named);
    expect((await bases.state(found.file)).build().root).toBe(state.build().root);
    expect((await bases.baseMap(found.file))?.build().root).toBe(initial.build().root);
    expect(await readdir(path.join(folder, 'bases'))).toEqual([`${named.name}.json`]);
  });

  it('of which a map is missing, another one, or damaged is refused', async () => {
    const { file } = await written();
    const [first, second] = file.maps;
    if (first === undefined || second === undefined) throw new Error('two maps');
    await expect(bases.state({ ...file, maps: [first] })).rejects.toMatchObject({ code: 'digest-mismatch' });
    await expect(bases.state({ ...file, maps: [first, block('none')] })).rejects.toMatchObject({ code: 'local-io' });
    await writeFile(path.join(folder, 'maps', second), 'damaged');
    await expect(bases.state(file)).rejects.toMatchObject({ code: 'digest-mismatch' });
    await expect(bases.base(block('none'))).rejects.toMatchObject({ code: 'local-io' });
  });

  it('is written once, and whole again where it was damaged', async () => {
    const { file } = await written();
    const { name } = await bases.putBase(file);
    await writeFile(path.join(folder, 'bases', `${name}.json`), 'damaged');
    await bases.putBase(file);
    expect((await bases.base(name)).file).toEqual(file);
  });

  it('that the local disk refuses is said to be refused by that one', async () => {
    const { file } = await written();
    await rm(folder, { recursive: true });
    await expect(bases.putBase(file)).rejects.toMatchObject({ code: 'local-io', data: { local: true } });
  });

  it('and its maps stay as long as somebody names them', async () => {
    const { file } = await written();
    const { name } = await bases.putBase(file);
    await bases.putBase({ ...file, number: 3 });
    await bases.putMap(DiskMap.empty(SHAPE).changesSince(undefined));
    await bases.keepOnly(new Set([name]), new Set());
    expect((await bases.state((await bases.base(name)).file)).blockCount).toBe(5);
    expect((await readdir(path.join(folder, 'bases'))).length).toBe(1);
    expect((await readdir(path.join(folder, 'maps'))).length).toBe(3);
    await bases.keepOnly(new Set(), new Set());
    expect(await readdir(path.join(folder, 'maps'))).toEqual([]);
  });
});
