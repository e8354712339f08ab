/** Base files and their maps: the codec, and that nothing is opened that does not lead to the roots. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CollectiveError, DiskMap, MAP_KIND, sha256, type Digest, type ErrorCode } from '@collective/shared';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { BaseFolder } from '../../backup/base-file.js';
import { baseFilePath, baseMapPath, decodeBaseFile, encodeBaseFile, type BaseFile } from './base-file.js';
import { openBase } from './open-base.js';

const fileSystem = new LocalFileSystem();
const BLOCK = 4096;
const shape = { diskBytes: 6 * BLOCK - 512, blockBytes: BLOCK };
const digestOf = (seed: number): Digest => sha256(Buffer.from([seed]));

const example: BaseFile = {
  format: 1,
  subscription: '00112233445566778899aabbccddeeff',
  number: 7,
  diskBytes: 2 ** 31,
  blockBytes: 16_384,
  root: digestOf(1),
  maps: [digestOf(7), digestOf(6)],
  base: { appliance: 'alpine', version: 3, root: digestOf(2), map: digestOf(3) },
  objects: [1, 4, 7],
};

const codeOf = (act: () => unknown): ErrorCode | undefined => {
  try {
    act();
    return undefined;
  } catch (error) {
    if (error instanceof CollectiveError) return error.code;
    throw error;
  }
};

describe('base file', () => {
  it.each([
    ['base-1.json', example],
    ['base-1-alone.json', { ...example, maps: [], base: null, objects: [] }],
  ])('%s, a golden file, is read and written the same', (name, content) => {
    const golden = readFileSync(new URL(`golden/${name}`, import.meta.url));
    expect(decodeBaseFile(golden)).toEqual(content);
    expect(encodeBaseFile(content).toString()).toBe(golden.toString());
  });

  it.each<[string, object, ErrorCode]>([
    ['a later format', { format: 2 }, 'unknown-format'],
    ['an unknown field', { more: 1 }, 'malformed'],
    ['a map that leads elsewhere', { maps: ['../../x'] }, 'malformed'],
    ['a map that is no digest', { maps: ['x'.repeat(64)] }, 'malformed'],
    ['a subscription that leads elsewhere', { subscription: '../'.repeat(11).slice(1) }, 'malformed'],
    ['objects that do not ascend', { objects: [4, 1] }, 'malformed'],
    ['an object twice', { objects: [1, 1] }, 'malformed'],
    ['an object of a later snapshot', { objects: [8] }, 'malformed'],
    ['half a sector', { diskBytes: 1000 }, 'malformed'],
    ['blocks of no size that there is', { blockBytes: 12_288 }, 'malformed'],
    ['a root that is none', { root: 'x' }, 'malformed'],
    ['a base without its root', { base: { ...example.base, root: null } }, 'malformed'],
  ])('with %s is refused', (_name, change, code) => {
    expect(codeOf(() => decodeBaseFile(Buffer.from(JSON.stringify({ ...example, ...change }))))).toBe(code);
  });

  it('any JSON and any bytes give a value or a typed error', () => {
    fc.assert(fc.property(fc.json(), (text) => void codeOf(() => decodeBaseFile(Buffer.from(text)))));
    fc.assert(fc.property(fc.uint8Array(), (bytes) => void codeOf(() => decodeBaseFile(bytes))));
  });
});

describe('open base', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'base-'));
  });
  afterEach(() => rm(folder, { recursive: true }));

  /** zero, public 1, inherits public 2, inherits zero, private 3, inherits beyond the end of the initial disk. */
  const write = async (change: (file: BaseFile, initialMap: Digest) => Partial<BaseFile> = () => ({})) => {
    const bases = await BaseFolder.open(folder);
    const initial = DiskMap.empty({ ...shape, diskBytes: 5 * BLOCK });
    initial.set(0, { kind: 'public', digest: digestOf(9) });
    initial.set(2, { kind: 'public', digest: digestOf(2) });
    const initialMap = await bases.putMap(initial.changesSince(undefined));
    const map = DiskMap.empty(shape, 'inherit');
    const before = map.clone();
    map.set(0, { kind: 'zero' });
    map.set(1, { kind: 'public', digest: digestOf(8) });
    const between = map.clone();
    map.set(1, { kind: 'public', digest: digestOf(1) });
    map.set(4, { kind: 'private', digest: digestOf(3) });
    const first = await bases.putMap(between.changesSince(before));
    const second = await bases.putMap(map.changesSince(between));
    const file: BaseFile = {
      ...{ format: 1, subscription: example.subscription, number: 2, ...shape, root: map.build().root },
      maps: [first, second],
      base: { appliance: 'alpine', version: 1, root: initial.build().root, map: initialMap },
      objects: [1, 2],
    };
    const changed = { ...file, ...change(file, initialMap) };
    return { bases, digest: (await bases.putBase(changed)).name, file: changed };
  };
  const failsWith = (code: ErrorCode, digest: Digest): Promise<void> =>
    expect(openBase(fileSystem, folder, digest)).rejects.toMatchObject({ code });

  it('gives each block what it is, inherited ones as the initial disk has them', async () => {
    const { digest, file } = await write();
    const base = await openBase(fileSystem, folder, digest);
    expect(base).toMatchObject({ digest, file, ...shape, blockCount: 6 });
    const { zero, public: isPublic, private: isPrivate } = MAP_KIND;
    expect([...base.kinds]).toEqual([zero, isPublic, isPublic, zero, isPrivate, zero]);
    const digests = Array.from({ length: 6 }, (_, index) =>
      base.digestBytes.toString('hex', index * 32, (index + 1) * 32),
    );
    const none = '0'.repeat(64);
    expect(digests).toEqual([none, digestOf(1), digestOf(2), none, digestOf(3), none]);
  });

  it('begins with zeroes where there is no initial disk, and refuses blocks that inherit then', async () => {
    const { bases, file } = await write();
    const map = DiskMap.empty(shape);
    map.set(3, { kind: 'private', digest: digestOf(3) });
    const put = async (change: Partial<BaseFile> = {}): Promise<Digest> => {
      const maps = [await bases.putMap(map.changesSince(undefined))];
      return (await bases.putBase({ ...file, maps, base: null, root: map.build().root, ...change })).name;
    };
    const base = await openBase(fileSystem, folder, await put());
    const { zero, private: isPrivate } = MAP_KIND;
    expect([...base.kinds]).toEqual([zero, zero, zero, isPrivate, zero, zero]);
    await failsWith('malformed', await put({ objects: [] }));
    map.set(2, { kind: 'inherit' });
    await failsWith('malformed', await put());
  });

  it('refuses a file that does not have its name', async () => {
    const { digest } = await write();
    const path = baseFilePath(folder, digest);
    await writeFile(path, (await readFile(path)).toString().replace('"number":2', '"number":3'));
    await failsWith('digest-mismatch', digest);
    await rm(path);
    await failsWith('not-found', digest);
  });

  it('refuses maps that lead elsewhere: in another order, one too few, a changed one, one of another disk, none', async () => {
    for (const keep of [(maps: Digest[]) => maps.reverse(), (maps: Digest[]) => maps.slice(0, 1), () => []])
      await failsWith('digest-mismatch', (await write(({ maps }) => ({ maps: keep([...maps]) }))).digest);
    await failsWith('malformed', (await write((_file, initialMap) => ({ maps: [initialMap] }))).digest);
    await failsWith('not-found', (await write(() => ({ maps: [digestOf(0)] }))).digest);
    const { digest, file } = await write();
    const path = baseMapPath(folder, file.maps[1] ?? digest);
    const bytes = await readFile(path);
    bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
    await writeFile(path, bytes);
    await failsWith('digest-mismatch', digest);
    await writeFile(path, bytes.subarray(0, bytes.length - 1));
    await failsWith('malformed', digest);
  });

  it('refuses an initial disk that is not the one that is named', async () => {
    const other = await write(({ base }) => ({ base: base && { ...base, root: digestOf(4) } }));
    await failsWith('digest-mismatch', other.digest);
  });
});
