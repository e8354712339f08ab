import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CollectiveError, DiskMap, encodeChunk, sha256, type Digest, type VersionManifest } from '@collective/shared';
import { ObjectCache } from '../agent/object-cache.js';
import type { VerifiedVersion } from '../agent/trust-client.js';
import { VersionBaseMaps, type VersionSource } from './version-base-maps.js';

const SHAPE = { diskBytes: 3 * 4_096, blockBytes: 4_096 };
const diskOf = (content: string): DiskMap => {
  const map = DiskMap.empty(SHAPE);
  map.set(1, { kind: 'public', digest: sha256(Buffer.from(content)) });
  return map;
};

let folder: string;
let objects: ObjectCache;
let asked: number[];
/** Pages at the repository, and those that were fetched. */
let kept: ReadonlyMap<Digest, Buffer>;
let fetched: Digest[];
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'base-maps-'));
  objects = await ObjectCache.open(folder);
  for (const content of ['old', 'new']) await objects.put('page', diskOf(content).build().pages);
  asked = [];
  kept = new Map();
  fetched = [];
});
afterEach(async () => {
  await objects.close();
  await rm(folder, { recursive: true, force: true });
});

/** Versions by number: what their initial user disk holds, or the error that they give. */
const maps = (versions: Readonly<Record<number, string | CollectiveError>>): VersionBaseMaps => {
  const source: VersionSource = {
    source: () => ({}) as never,
    client: {
      call: (async (route: string, { params }: { readonly params: { readonly digest: Digest } }) => {
        if (route === 'versions') return Object.keys(versions).map((version) => ({ version: Number(version) }));
        fetched.push(params.digest);
        const page = kept.get(params.digest);
        if (page === undefined) throw new CollectiveError('not-found');
        return encodeChunk(page);
      }) as never,
    },
    trust: {
      version: async (_appliance, version): Promise<VerifiedVersion> => {
        asked.push(version);
        const content = versions[version] ?? new CollectiveError('not-found');
        if (content instanceof CollectiveError) throw content;
        const disk = {
          name: 'user',
          kind: 'user',
          bus: 'virtio',
          ...SHAPE,
          root: diskOf(content).build().root,
          base: null,
        };
        const manifest = { appliance: 'debian', version, disks: [disk] } as unknown as VersionManifest;
        return { manifest, digest: '0'.repeat(64) as Digest, notes: [] };
      },
    },
  };
  return new VersionBaseMaps(source, objects);
};
const wanted = (content: string, version: number): Parameters<VersionBaseMaps['find']>[0] => ({
  ...{ appliance: 'debian', version, disk: { name: 'user', ...SHAPE } },
  root: diskOf(content).build().root,
});

describe('the initial disk that a snapshot goes back to', () => {
  it('is that of the version that wrote it, which alone is asked for', async () => {
    const found = await maps({ 1: 'old', 2: 'new', 3: 'new' }).find(wanted('new', 3));
    expect([found.version, found.map.build().root, asked]).toEqual([3, diskOf('new').build().root, [3]]);
  });

  it('or of another one, the newest first; what is withdrawn or not signed is passed over', async () => {
    const versions = { 1: 'old', 2: 'old', 3: new CollectiveError('untrusted'), 4: 'new' };
    expect((await maps(versions).find(wanted('old', 5))).version).toBe(2);
    expect(asked).toEqual([5, 4, 3, 2]);
  });

  it('of none, because its version was deleted: the pages that the repository keeps for the snapshot, each fetched once', async () => {
    kept = diskOf('kept').build().pages;
    const found = await maps({ 1: 'old' }).find(wanted('kept', 1));
    expect(found.map.build().root).toBe(diskOf('kept').build().root);
    expect(fetched.sort()).toEqual([...kept.keys()].sort());
  });

  it('of none, and its pages are not there: not-found; without a repository: that error', async () => {
    await expect(maps({ 1: 'old' }).find(wanted('gone', 1))).rejects.toMatchObject({ code: 'not-found' });
    const away = maps({ 1: new CollectiveError('repository-unreachable') });
    await expect(away.find(wanted('new', 1))).rejects.toMatchObject({ code: 'repository-unreachable' });
  });
});
