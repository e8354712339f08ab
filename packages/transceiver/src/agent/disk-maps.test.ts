import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  CollectiveError,
  DiskMap,
  PAYLOAD_TYPES,
  decodeMapPage,
  encodeChangedPairs,
  encodeChunk,
  encodeChunkBatch,
  encodeVersionManifest,
  newSigningKeySeed,
  sha256,
  signEnvelope,
  signingKeyFromSeed,
  type Digest,
  type DiskDescription,
  type VersionManifest,
} from '@collective/shared';
import { DEFAULT_MACHINE } from '../publish/recipe.js';
import { loadDiskMap, type MapSource } from './disk-maps.js';
import { ObjectCache } from './object-cache.js';

let folder: string;
let objects: ObjectCache;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collective-maps-'));
  objects = await ObjectCache.open(folder);
});
afterEach(async () => {
  await objects.close();
  await rm(folder, { recursive: true, force: true });
});

const versionOf = (
  map: DiskMap,
): { manifest: VersionManifest; disk: DiskDescription; pages: ReadonlyMap<string, Buffer> } => {
  const { root, pages } = map.build();
  const disk: DiskDescription = {
    name: 'system',
    kind: 'system',
    bus: 'virtio',
    diskBytes: map.diskBytes,
    blockBytes: map.blockBytes,
    root,
    base: null,
  };
  const manifest: VersionManifest = {
    format: 1,
    appliance: 'demo',
    version: 2,
    parent: null,
    createdAt: 1,
    title: '',
    notes: '',
    machine: DEFAULT_MACHINE,
    disks: [disk],
  };
  return { manifest, disk, pages };
};
const filledMap = (blocks: number): DiskMap => {
  const map = DiskMap.empty({ diskBytes: blocks * 4096, blockBytes: 4096 });
  for (let index = 0; index < blocks; index += 97)
    map.set(index, { kind: 'public', digest: sha256(Buffer.from(String(index))) });
  return map;
};

/** Answers `diskMap` as a server does: all pages, the upper ones, or the leaves at positions. */
const serving = (pages: ReadonlyMap<string, Buffer>, map: DiskMap, asked: string[]): MapSource => {
  const call = async (
    _name: string,
    options: { readonly query: { readonly part: string; readonly positions?: string } },
  ): Promise<Buffer> => {
    const { part, positions } = options.query;
    asked.push(part);
    const all = [...pages.entries()];
    const isLeaf = (page: Buffer): boolean => decodeMapPage(page).level === 0;
    const wantedBlocks = new Set((positions ?? '').split(',').map(Number));
    const sent = all.filter(([, page]) => {
      if (part === 'all') return true;
      if (part === 'upper') return !isLeaf(page);
      return isLeaf(page) && wantedBlocks.size > 0;
    });
    return encodeChunkBatch(
      sent.map(([digest, page]) => ({ digest: digest as ReturnType<typeof sha256>, chunk: encodeChunk(page) })),
    );
  };
  expect(map.blockCount).toBeGreaterThan(0);
  return { call } as unknown as MapSource;
};

/** A version of `demo` that was verified on this machine, with its pages at hand. */
const holdVersion = async (version: number, map: DiskMap): Promise<void> => {
  const { manifest, pages } = versionOf(map);
  const bytes = signEnvelope({
    payloadType: PAYLOAD_TYPES.version,
    payload: encodeVersionManifest({ ...manifest, version }),
    signers: [signingKeyFromSeed(newSigningKeySeed())],
  });
  await objects.put('manifest', [[sha256(bytes), bytes]]);
  await objects.putVerifiedManifest('demo', version, sha256(bytes));
  await objects.put('page', pages as ReadonlyMap<Digest, Buffer>);
};

describe('loadDiskMap after an update', () => {
  const older = filledMap(1000);
  const newer = older.clone();
  newer.set(5, { kind: 'public', digest: sha256(Buffer.from('changed')) });

  /** Answers `diskChanges` with these bytes, and `diskMap` as ever. */
  const sending = (
    changes: Buffer | CollectiveError,
    pages: ReadonlyMap<string, Buffer>,
    asked: string[],
  ): MapSource => {
    const maps = serving(pages, newer, asked);
    const call = async (name: string, options: { readonly query: { readonly since?: number } }): Promise<Buffer> => {
      if (name === 'diskMap') return maps.call('diskMap', options as never);
      asked.push(`since ${String(options.query.since)}`);
      if (changes instanceof CollectiveError) throw changes;
      return changes;
    };
    return { call } as unknown as MapSource;
  };

  it('asks only for what changed since the newest version that is at hand, and then has the new map', async () => {
    await holdVersion(3, older);
    await holdVersion(1, filledMap(10));
    const { manifest, disk, pages } = versionOf(newer);
    const asked: string[] = [];
    const client = sending(encodeChangedPairs(newer.changesSince(older)), pages, asked);
    const loaded = await loadDiskMap({ manifest: { ...manifest, version: 4 }, disk, objects, client });
    expect(loaded.digestBytes.equals(newer.digestBytes)).toBe(true);
    expect(asked).toEqual(['since 3']);
    await loadDiskMap({ manifest: { ...manifest, version: 4 }, disk, objects, client: undefined });
  });

  const wrongDigest = older.clone();
  wrongDigest.set(5, { kind: 'public', digest: sha256(Buffer.from('not what was signed')) });
  it.each([
    ['leads to another root than the signed one', encodeChangedPairs(wrongDigest.changesSince(older))],
    ['is broken', Buffer.from('no list')],
    [
      'is of a disk that is much larger',
      encodeChangedPairs(DiskMap.empty({ diskBytes: 2 ** 44, blockBytes: 1_048_576 }).changesSince(undefined)),
    ],
    ['cannot be had because the older version was deleted', new CollectiveError('not-found')],
  ])('falls back to the pages when the list %s', async (_why, changes) => {
    await holdVersion(1, older);
    const { manifest, disk, pages } = versionOf(newer);
    const asked: string[] = [];
    const loaded = await loadDiskMap({ manifest, disk, objects, client: sending(changes, pages, asked) });
    expect(loaded.digestBytes.equals(newer.digestBytes)).toBe(true);
    expect(asked).toEqual(['since 1', 'all']);
  });

  it('never takes a later version for an older one', async () => {
    await holdVersion(9, older);
    const { manifest, disk, pages } = versionOf(newer);
    const asked: string[] = [];
    await loadDiskMap({ manifest, disk, objects, client: sending(Buffer.alloc(0), pages, asked) });
    expect(asked).toEqual(['all']);
  });
});

describe('loadDiskMap', () => {
  it('asks for a small map as a whole, once, and then has it at hand', async () => {
    const map = filledMap(1000);
    const { manifest, disk, pages } = versionOf(map);
    const asked: string[] = [];
    const loaded = await loadDiskMap({ manifest, disk, objects, client: serving(pages, map, asked) });
    expect(loaded.digestBytes.equals(map.digestBytes)).toBe(true);
    await loadDiskMap({ manifest, disk, objects, client: undefined });
    expect(asked).toEqual(['all']);
  });

  it('asks for the upper pages of a large map first, then for its leaves in groups', async () => {
    const map = filledMap(100_000);
    const { manifest, disk, pages } = versionOf(map);
    const asked: string[] = [];
    const loaded = await loadDiskMap({ manifest, disk, objects, client: serving(pages, map, asked) });
    expect(loaded.digestBytes.equals(map.digestBytes)).toBe(true);
    expect(asked).toEqual(['upper', 'leaves', 'leaves']);
  });

  it('says so when the map is not at hand and the repository is away', async () => {
    const { manifest, disk } = versionOf(filledMap(1000));
    await expect(loadDiskMap({ manifest, disk, objects, client: undefined })).rejects.toMatchObject({
      code: 'repository-unreachable',
    });
  });

  it('refuses a page that is not what its name says, and one that does not come', async () => {
    const map = filledMap(1000);
    const { manifest, disk, pages } = versionOf(map);
    const [first, second] = [...pages.keys()];
    if (first === undefined || second === undefined) throw new Error('too small a map');
    const swapped = new Map(pages).set(first, pages.get(second) ?? Buffer.alloc(0));
    await expect(loadDiskMap({ manifest, disk, objects, client: serving(swapped, map, []) })).rejects.toMatchObject({
      code: 'digest-mismatch',
    });
    const short = new Map(pages);
    short.delete(first);
    await expect(loadDiskMap({ manifest, disk, objects, client: serving(short, map, []) })).rejects.toMatchObject({
      code: 'block-missing',
    });
  });

  it('needs nobody for a disk that is all zero', async () => {
    const { manifest, disk } = versionOf(filledMap(1000));
    const map = await loadDiskMap({ manifest, disk: { ...disk, root: null }, objects, client: undefined });
    expect(map.kindAt(0)).toBe('zero');
  });
});
