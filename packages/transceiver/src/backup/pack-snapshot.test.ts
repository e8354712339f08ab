import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  CollectiveError,
  DiskMap,
  MAP_PAGE_BYTES_MAX,
  decodeChunk,
  decodePageColumns,
  decodePrivateChunk,
  decodeSnapshotObject,
  deriveEpochKeys,
  privateBlockDigest,
  type Digest,
} from '@collective/shared';
import { openPackWork } from './backup-work.js';
import { initialState } from './base-file.js';
import { keyAt, packSnapshot, type CommittedDisk, type PackOptions, type Packed } from './pack-snapshot.js';

const BLOCK_BYTES = 4_096;
const keys = deriveEpochKeys(Buffer.alloc(32, 1));
const block = (seed: number): Buffer => Buffer.alloc(BLOCK_BYTES, `${String(seed)},`);
const nameOf = (seed: number): Digest => privateBlockDigest(keys.blockNameKey, block(seed));

let folder: string;
let bytes: Buffer;
let changed: number[];
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'pack-'));
  bytes = Buffer.alloc(300 * BLOCK_BYTES - 512); // the last block is not whole
  changed = [];
});
afterEach(async () => rm(folder, { recursive: true, force: true }));

const write = (index: number, content: Buffer): void => {
  content.copy(bytes, index * BLOCK_BYTES);
  if (!changed.includes(index)) changed = [...changed, index].sort((a, b) => a - b);
};
const shape = (): { diskBytes: number; blockBytes: number } => ({ diskBytes: bytes.length, blockBytes: BLOCK_BYTES });
const nothing = (): CommittedDisk => ({ map: initialState(shape(), false), pages: new Set(), baseMap: undefined });
const object = (): string => path.join(folder, 'object');

const pack = async (committed: CommittedDisk, more: Partial<PackOptions> = {}): Promise<Packed> =>
  packSnapshot({
    disks: [{ name: 'user', layer: 'l', committed }],
    port: {
      view: async (_disk, _layer, work) =>
        work({
          diskBytes: bytes.length,
          read: async (target, at) => void bytes.copy(target, 0, at, at + target.length),
        }),
      changedBlocks: async () => Uint32Array.from(changed),
    },
    work: openPackWork({ workers: 0 }),
    keys: { epoch: 3, chunkKey: keys.chunkKey, nameKeys: [keys.blockNameKey] },
    path: object(),
    mustResend: false,
    signal: new AbortController().signal,
    ...more,
  });
const after = (packed: Packed): CommittedDisk => ({
  map: packed.disks[0]?.map ?? DiskMap.empty(shape()),
  pages: packed.disks[0]?.pages ?? new Set(),
  baseMap: undefined,
});

describe('packing', () => {
  it('pages come first, the root ahead; then the blocks in the order of the disk, each content once', async () => {
    write(299, block(1).subarray(0, BLOCK_BYTES - 512));
    write(5, block(2));
    write(130, block(3));
    write(131, block(2));
    const packed = await pack(nothing());
    const records = decodeSnapshotObject(await readFile(object()));
    const levels = records
      .slice(0, packed.sentPages)
      .map(
        ({ digest, chunk }) =>
          decodePageColumns(decodeChunk(chunk, { digest, plainBytesMax: MAP_PAGE_BYTES_MAX })).level,
      );
    expect(levels).toEqual([1, 0, 0, 0]);
    expect(records[0]?.digest).toBe(packed.disks[0]?.root);
    const last = Buffer.concat([block(1).subarray(0, BLOCK_BYTES - 512), Buffer.alloc(512)]);
    const plain = records.slice(4).map(({ digest, chunk }) =>
      decodePrivateChunk(chunk, {
        key: keys.chunkKey,
        nameKey: keys.blockNameKey,
        epoch: 3,
        digest,
        plainBytes: BLOCK_BYTES,
      }),
    );
    expect(plain.map((one) => [block(2), block(3), last].findIndex((other) => other.equals(one)))).toEqual([0, 1, 2]);
    expect(packed).toMatchObject({ touchedBlocks: 4, changedBlocks: 4, sentBlocks: 3, sentPages: 4 });
    expect(packed.objectBytes).toBe((await readFile(object())).length);
  });

  it('sends no block and no page that a listed object has, wherever it was', async () => {
    write(5, block(2));
    const first = after(await pack(nothing()));
    write(9, block(2));
    const packed = await pack(first);
    expect([packed.sentBlocks, packed.sentPages]).toEqual([0, 2]);
    expect(decodeSnapshotObject(await readFile(object())).some(({ digest }) => digest === nameOf(2))).toBe(false);
  });

  it('nothing has changed: there is no object, and one that was left is gone', async () => {
    write(5, block(2));
    const first = after(await pack(nothing()));
    const packed = await pack(first);
    expect([packed.objectBytes, packed.changedBlocks, packed.disks[0]?.root]).toEqual([0, 0, first.map.build().root]);
    expect(await readdir(folder)).toEqual([]);
  });

  it('everything again, when no object has anything', async () => {
    write(5, block(2));
    write(200, block(3));
    const first = after(await pack(nothing()));
    changed = [];
    const packed = await pack(first, { mustResend: true });
    expect(packed.sentBlocks).toBe(2);
    expect(packed.sentPages).toBe(first.pages.size);
    expect(packed.disks[0]?.root).toBe(first.map.build().root);
  });

  it('what lies in objects that are given up is sent again, and only that', async () => {
    write(5, block(2));
    write(200, block(3));
    const first = after(await pack(nothing()));
    changed = [];
    const givenUp = new Set([keyAt(first.map.digestBytes, 200)]);
    const packed = await pack(first, { givenUp });
    expect([packed.sentBlocks, packed.sentPages]).toEqual([1, 0]);
    expect(decodeSnapshotObject(await readFile(object())).map(({ digest }) => digest)).toEqual([nameOf(3)]);
  });

  it('a read that fails leaves no object behind', async () => {
    write(5, block(2));
    let reads = 0;
    const port: PackOptions['port'] = {
      changedBlocks: async () => Uint32Array.from(changed),
      view: async (_disk, _layer, work) =>
        work({
          diskBytes: bytes.length,
          read: async (target, at) => {
            reads += 1;
            if (reads === 2) throw new CollectiveError('block-unavailable');
            bytes.copy(target, 0, at, at + target.length);
          },
        }),
    };
    await expect(pack(nothing(), { port })).rejects.toMatchObject({ code: 'block-unavailable' });
    expect(await readdir(folder)).toEqual([]);
  });

  it('a view of another size than the disk is refused', async () => {
    write(5, block(2));
    const other = { ...nothing(), map: DiskMap.empty({ diskBytes: 512, blockBytes: BLOCK_BYTES }) };
    changed = [0];
    await expect(pack(other)).rejects.toMatchObject({ code: 'local-io' });
  });

  it('what a pack that was killed left is removed', async () => {
    write(5, block(2));
    await writeFile(`${object()}.00ff.tmp`, 'half');
    await pack(nothing());
    expect(await readdir(folder)).toEqual(['object']);
  });

  it('an abort ends it', async () => {
    write(5, block(2));
    const abort = new AbortController();
    abort.abort(new Error('enough'));
    await expect(pack(nothing(), { signal: abort.signal })).rejects.toThrow('enough');
  });
});

it('a read that waits for a block in an outage ends when the packing is broken off', async () => {
  write(5, block(2));
  const controller = new AbortController();
  const view: PackOptions['port']['view'] = async (_disk, _layer, work) => {
    const read = async (): Promise<void> => {
      controller.abort(new CollectiveError('shutting-down'));
      return new Promise(() => undefined);
    };
    return work({ diskBytes: bytes.length, read });
  };
  const port = { view, changedBlocks: async () => Uint32Array.from(changed) };
  await expect(pack(nothing(), { port, signal: controller.signal })).rejects.toMatchObject({ code: 'shutting-down' });
  expect(await readdir(folder)).toEqual([]);
});
