import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  DIGEST_BYTES,
  MAP_KIND,
  decodePrivateChunk,
  deriveEpochKeys,
  digestBytes,
  digestFromBytes,
  privateBlockDigest,
  sha256Bytes,
  type Digest,
} from '@collective/shared';
import {
  runPackTask,
  type Blocks,
  type EncodeTask,
  type Entries,
  type NameResult,
  type NameTask,
} from './backup-work.js';

const BLOCK_BYTES = 4_096;
const newest = deriveEpochKeys(Buffer.alloc(32, 1));
const older = deriveEpochKeys(Buffer.alloc(32, 2));
const block = (fill: number): Buffer => Buffer.alloc(BLOCK_BYTES, fill);
const nameOf = (fill: number, keys = newest): Digest => privateBlockDigest(keys.blockNameKey, block(fill));

const entries = (...list: readonly (Digest | Buffer | 'zero' | 'inherit')[]): Entries => ({
  kinds: Uint8Array.from(list, (entry) =>
    entry === 'zero'
      ? MAP_KIND.zero
      : entry === 'inherit'
        ? MAP_KIND.inherit
        : typeof entry === 'string'
          ? MAP_KIND.private
          : MAP_KIND.public,
  ),
  digests: Buffer.concat(
    list.map((entry) =>
      typeof entry === 'string'
        ? entry.length === 64
          ? digestBytes(entry as Digest)
          : Buffer.alloc(DIGEST_BYTES)
        : entry,
    ),
  ),
});

/** A disk of these bytes, all of its blocks. */
const blocksOf = (bytes: Buffer): Blocks => ({
  view: {
    diskBytes: bytes.length,
    read: async (target, at) => void bytes.copy(target, 0, at, at + target.length),
  },
  blockBytes: BLOCK_BYTES,
  blockIndexes: Uint32Array.from({ length: Math.ceil(bytes.length / BLOCK_BYTES) }, (_none, at) => at),
});

const named = async ({
  bytes,
  ...task
}: Partial<NameTask> & Pick<NameTask, 'committed'> & { readonly bytes: Buffer }): Promise<(string | undefined)[]> => {
  const result = (await runPackTask({
    ...{ kind: 'name', blocks: blocksOf(bytes), base: undefined, forced: new Uint8Array(8) },
    nameKeys: [newest.blockNameKey, older.blockNameKey],
    ...task,
  })) as NameResult;
  return Array.from(result.kinds, (kind, at) =>
    kind === MAP_KIND.private
      ? digestFromBytes(result.digests.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES))
      : Object.entries(MAP_KIND).find(([, value]) => value === kind)?.[0],
  );
};

describe('naming blocks', () => {
  it('zeroes are zero; without an initial disk nothing inherits', async () => {
    const bytes = Buffer.concat([block(0), block(5)]);
    expect(await named({ bytes, committed: entries('zero', 'zero') })).toEqual(['zero', nameOf(5)]);
  });

  it('what the initial disk has there inherits, zeroes too', async () => {
    const bytes = Buffer.concat([block(5), block(0), block(0), block(6)]);
    const base = entries(sha256Bytes(block(5)), 'zero', sha256Bytes(block(5)), sha256Bytes(block(5)));
    const committed = entries('zero', nameOf(1), 'inherit', 'inherit');
    expect(await named({ bytes, committed, base })).toEqual(['inherit', 'inherit', 'zero', nameOf(6)]);
  });

  it('a block keeps its name when its content is the same, by an older epoch too; a changed one gets the newest', async () => {
    const bytes = Buffer.concat([block(1), block(2), block(3)]);
    const committed = entries(nameOf(1), nameOf(2, older), nameOf(9, older));
    expect(await named({ bytes, committed })).toEqual([nameOf(1), nameOf(2, older), nameOf(3)]);
  });

  it('what must be sent again gets the newest name', async () => {
    const committed = entries(nameOf(2, older));
    expect(await named({ bytes: block(2), committed, forced: Uint8Array.of(1) })).toEqual([nameOf(2)]);
  });
});

it('reads neighbours together, never more than 16 KiB, and only what was asked for', async () => {
  const bytes = Buffer.alloc(100 * BLOCK_BYTES, 5);
  const reads: [number, number][] = [];
  const view: Blocks['view'] = {
    diskBytes: bytes.length,
    read: async (target, at) => {
      reads.push([at / BLOCK_BYTES, target.length / BLOCK_BYTES]);
      bytes.copy(target, 0, at, at + target.length);
    },
  };
  const blockIndexes = Uint32Array.from([1, 2, 3, 7, ...Array.from({ length: 20 }, (_none, at) => 50 + at)]);
  const committed = entries(...Array.from({ length: 24 }, () => 'zero' as const));
  await runPackTask({
    ...{ kind: 'name', blocks: { view, blockBytes: BLOCK_BYTES, blockIndexes }, base: undefined, committed },
    ...{ forced: new Uint8Array(24), nameKeys: [newest.blockNameKey] },
  });
  expect(reads).toEqual([
    [1, 3],
    [7, 1],
    [50, 4],
    [54, 4],
    [58, 4],
    [62, 4],
    [66, 4],
  ]);
});

describe('encoding blocks', () => {
  let folder: string;
  let file: string;
  beforeEach(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'encode-'));
    file = path.join(folder, 'object');
    await writeFile(file, 'head');
  });
  afterEach(async () => rm(folder, { recursive: true, force: true }));

  const task = (bytes: Buffer, ...names: readonly Digest[]): EncodeTask => ({
    ...{ kind: 'encode', blocks: blocksOf(bytes), digests: Buffer.concat(names.map((name) => digestBytes(name))) },
    ...{ nameKey: newest.blockNameKey, chunkKey: newest.chunkKey, epoch: 4, level: 3 },
    target: { path: file, byteOffset: 4 },
  });

  it('writes chunks that open to them, back to back, behind what is there', async () => {
    // More than one batch, and a last block that is not whole.
    const bytes = Buffer.concat([...Array.from({ length: 300 }, (_none, at) => block(at + 1)), Buffer.alloc(512, 9)]);
    const padded = Buffer.concat([bytes, Buffer.alloc(BLOCK_BYTES - 512)]);
    const blocks = Array.from({ length: 301 }, (_none, at) =>
      padded.subarray(at * BLOCK_BYTES, (at + 1) * BLOCK_BYTES),
    );
    const names = blocks.map((one) => privateBlockDigest(newest.blockNameKey, one));
    const result = await runPackTask(task(bytes, ...names));
    if (result.kind !== 'encode') throw new Error('no chunks');
    const written = await readFile(file);
    let at = 4;
    const opened = Array.from(result.chunkBytes, (chunkBytes, index) =>
      decodePrivateChunk(written.subarray(at, (at += chunkBytes)), {
        ...{ key: newest.chunkKey, nameKey: newest.blockNameKey, epoch: 4, plainBytes: BLOCK_BYTES },
        digest: names[index] as Digest,
      }),
    );
    expect(Buffer.concat(opened).equals(padded)).toBe(true);
    expect([written.subarray(0, 4).toString(), written.length]).toEqual(['head', at]);
  });

  it('never saves a block under the name of another one', async () => {
    await expect(runPackTask(task(block(1), nameOf(2)))).rejects.toMatchObject({ code: 'local-io' });
    expect((await readFile(file)).toString()).toBe('head');
  });

  it('where there is no room: disk-full of this machine', async () => {
    await rm(file);
    await symlink('/dev/full', file);
    await expect(runPackTask(task(block(1), nameOf(1)))).rejects.toMatchObject({
      code: 'disk-full',
      data: { local: true },
    });
  });
});
