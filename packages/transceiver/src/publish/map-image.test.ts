import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  blockDigest,
  CollectiveError,
  decodeChunk,
  decodeChunkBatch,
  digestFromBytes,
  DiskMap,
} from '@collective/shared';
import type { DiskImage } from './disk-image.js';
import { blockBytesFor, blockRuns, dataRanges, mapBlocks, mapImage } from './map-image.js';
import { distinctBlocks, lackingBlocks } from './upload-plan.js';
import { openWorkPool, type WorkPool } from './work-pool.js';

const BLOCK = 65_536;
let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collective-map-'));
});
afterEach(async () => rm(folder, { recursive: true, force: true }));

async function rawImage(blocks: readonly number[], tailBytes = 0): Promise<DiskImage> {
  const path = join(folder, 'disk.raw');
  const bytes = Buffer.concat([...blocks.map((value) => Buffer.alloc(BLOCK, value)), Buffer.alloc(tailBytes, 9)]);
  await writeFile(path, bytes);
  return {
    path,
    format: 'raw',
    diskBytes: bytes.length,
    extents: [{ byteOffset: 0, byteLength: bytes.length, data: true }],
    usedBytes: bytes.length,
    fileBytes: bytes.length,
    changedAtMs: 0,
  };
}

describe('dataRanges', () => {
  it('covers every block that a data extent touches once, merged and split', () => {
    const extents = [
      { byteOffset: 0, byteLength: 100, data: true },
      { byteOffset: 100, byteLength: 400, data: false },
      { byteOffset: 500, byteLength: 600, data: true },
      { byteOffset: 1100, byteLength: 10_000, data: false },
      { byteOffset: 11_100, byteLength: 1, data: true },
    ];
    expect([...dataRanges(extents, 512, 2)]).toEqual([
      { firstBlock: 0, blockCount: 2 },
      { firstBlock: 2, blockCount: 1 },
      { firstBlock: 21, blockCount: 1 },
    ]);
  });

  it('gives nothing for a disk of holes', () => {
    expect([...dataRanges([{ byteOffset: 0, byteLength: 1_000_000, data: false }], 512, 8)]).toEqual([]);
  });
});

describe('mapImage', () => {
  it('names each block by its digest, finds zero blocks, and pads the last one', async () => {
    const image = await rawImage([1, 0, 2, 1], 512);
    const pool = openWorkPool({ workers: 0 });
    const map = await mapImage(image, {
      source: { kind: 'file', path: image.path, diskBytes: image.diskBytes },
      blockBytes: BLOCK,
      pool,
    });
    await pool.close();
    expect(map.blockCount).toBe(5);
    expect(map.digestAt(0)).toBe(blockDigest(Buffer.alloc(BLOCK, 1)));
    expect(map.kindAt(1)).toBe('zero');
    expect(map.digestAt(3)).toBe(map.digestAt(0));
    const last = Buffer.concat([Buffer.alloc(512, 9), Buffer.alloc(BLOCK - 512)]);
    expect(map.digestAt(4)).toBe(blockDigest(last));
  });

  it('refuses a file that is shorter than it was', async () => {
    const image = await rawImage([1, 2]);
    const pool = openWorkPool({ workers: 0 });
    const longer = { ...image, diskBytes: 3 * BLOCK, extents: [{ byteOffset: 0, byteLength: 3 * BLOCK, data: true }] };
    const mapping = mapImage(longer, {
      source: { kind: 'file', path: image.path, diskBytes: longer.diskBytes },
      blockBytes: BLOCK,
      pool,
    });
    await expect(mapping).rejects.toMatchObject({ code: 'bad-image' });
    await pool.close();
  });
});

describe('blocks that travel', () => {
  it("lists each public digest once, and the server's answer picks from them", async () => {
    const image = await rawImage([1, 0, 2, 1, 3]);
    const pool = openWorkPool({ workers: 0 });
    const source = { kind: 'file', path: image.path, diskBytes: image.diskBytes } as const;
    const map = await mapImage(image, { source, blockBytes: BLOCK, pool });
    const list = distinctBlocks(map.changesSince(undefined));
    expect([...list.blockIndexes]).toEqual([0, 2, 4]);
    const wanted = lackingBlocks(list, list.digests.subarray(32, 96));
    expect([...wanted.blockIndexes]).toEqual([2, 4]);
    const encoded = await pool.run({ kind: 'encode', source, blockBytes: BLOCK, ...wanted, level: 3 });
    await pool.close();
    if (encoded.kind !== 'encode') throw new Error('another kind of result');
    const records = encoded.batches.flatMap((batch) => decodeChunkBatch(batch));
    expect(records.map((record) => record.digest)).toEqual([2, 4].map((index) => map.digestAt(index)));
    const [first] = records;
    if (first === undefined) throw new Error('no record');
    expect(decodeChunk(first.chunk, { digest: first.digest, plainBytes: BLOCK })[0]).toBe(2);
  });

  it('refuses a block that changed after it was hashed', async () => {
    const image = await rawImage([1, 2]);
    const pool = openWorkPool({ workers: 0 });
    const source = { kind: 'file', path: image.path, diskBytes: image.diskBytes } as const;
    const list = distinctBlocks((await mapImage(image, { source, blockBytes: BLOCK, pool })).changesSince(undefined));
    await writeFile(image.path, Buffer.alloc(2 * BLOCK, 7));
    expect(digestFromBytes(list.digests.subarray(0, 32))).toBe(blockDigest(Buffer.alloc(BLOCK, 1)));
    await expect(pool.run({ kind: 'encode', source, blockBytes: BLOCK, ...list, level: 3 })).rejects.toMatchObject({
      code: 'bad-image',
    });
    await pool.close();
  });
});

describe('blockBytesFor', () => {
  it('takes 64 KiB for system disks, 16 KiB for user disks, and more for disks that would have more than 2^24 blocks', () => {
    expect(blockBytesFor({ kind: 'system', diskBytes: 2 ** 31 })).toBe(65_536);
    expect(blockBytesFor({ kind: 'user', diskBytes: 2 ** 31 })).toBe(16_384);
    expect(blockBytesFor({ kind: 'system', diskBytes: 2 ** 44 })).toBe(1_048_576);
  });
});

describe('blockRuns', () => {
  it('joins neighbours, and splits what is longer than a task', () => {
    const runs = (blocks: readonly number[], blocksMax = 100): string =>
      [...blockRuns(Uint32Array.from(blocks), blocksMax)]
        .map(({ firstBlock, blockCount }) => `${String(firstBlock)}+${String(blockCount)}`)
        .join(' ');
    expect(runs([])).toBe('');
    expect(runs([0])).toBe('0+1');
    expect(runs([0, 1, 2, 4, 9, 10])).toBe('0+3 4+1 9+2');
    expect(runs([5, 6, 7, 8, 9], 2)).toBe('5+2 7+2 9+1');
  });
});

describe('mapBlocks', () => {
  it('reads the named blocks and no other: changed, zeroed and unchanged ones are told apart by content', async () => {
    const before = await rawImage([1, 2, 3, 0, 5, 6], 512);
    const pool = openWorkPool({ workers: 0 });
    const base = await mapImage(before, {
      source: { kind: 'file', path: before.path, diskBytes: before.diskBytes },
      blockBytes: BLOCK,
      pool,
    });
    const root = base.build().root;
    // Block 0 changes too, but nobody names it: as if a disk had decayed that is not read.
    const after = await rawImage([9, 7, 0, 4, 5, 6], 512);
    const read: number[] = [];
    const counting = {
      workers: 0,
      run: async (task: Parameters<WorkPool['run']>[0]) => {
        if (task.kind === 'hash') for (let at = 0; at < task.blockCount; at += 1) read.push(task.firstBlock + at);
        return pool.run(task);
      },
    };
    const done: number[] = [];
    const map = await mapBlocks(base, Uint32Array.from([1, 2, 3, 5, 6]), {
      source: { kind: 'file', path: after.path, diskBytes: after.diskBytes },
      pool: counting,
      onProgress: (blocks) => done.push(blocks),
    });
    expect(read).toEqual([1, 2, 3, 5, 6]);
    expect(done.at(-1)).toBe(5);
    const changes = map.changesSince(base);
    expect([...changes.blockIndexes]).toEqual([1, 2, 3]);
    expect(map.kindAt(2)).toBe('zero');
    expect(map.digestAt(1)).toBe(blockDigest(Buffer.alloc(BLOCK, 7)));
    // The map that it was made from is left alone.
    expect(base.build().root).toBe(root);
    await pool.close();
  });

  it('of nothing is what it was', async () => {
    const image = await rawImage([1, 2]);
    const pool = openWorkPool({ workers: 0 });
    const source = { kind: 'file', path: image.path, diskBytes: image.diskBytes } as const;
    const base = await mapImage(image, { source, blockBytes: BLOCK, pool });
    const map = await mapBlocks(base, new Uint32Array(0), { source, pool });
    expect(map.build().root).toBe(base.build().root);
    await pool.close();
  });

  it('fails when a block cannot be read', async () => {
    const base = DiskMap.empty({ diskBytes: 4 * BLOCK, blockBytes: BLOCK });
    const pool = {
      workers: 0,
      run: async () => {
        throw new CollectiveError('local-io');
      },
    };
    const source = { kind: 'file', path: '/nowhere', diskBytes: 4 * BLOCK } as const;
    await expect(mapBlocks(base, Uint32Array.of(0, 2), { source, pool })).rejects.toMatchObject({ code: 'local-io' });
  });
});
