import { describe, expect, it } from 'vitest';
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
import { runPackTask, type Entries, type NameResult, type NameTask } from './backup-work.js';

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

const named = async (
  task: Partial<NameTask> & Pick<NameTask, 'bytes' | 'committed'>,
): Promise<(string | undefined)[]> => {
  const result = (await runPackTask({
    ...{ kind: 'name', blockBytes: BLOCK_BYTES, base: undefined, forced: new Uint8Array(8) },
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

describe('encoding blocks', () => {
  const task = {
    kind: 'encode' as const,
    ...{ blockBytes: BLOCK_BYTES, nameKey: newest.blockNameKey, chunkKey: newest.chunkKey, epoch: 4, level: 3 },
  };

  it('gives chunks that open to them', async () => {
    const bytes = Buffer.concat([block(1), block(2)]);
    const digests = Buffer.concat([digestBytes(nameOf(1)), digestBytes(nameOf(2))]);
    const result = await runPackTask({ ...task, bytes, digests });
    if (result.kind !== 'chunks') throw new Error('no chunks');
    const opened = result.chunks.map((chunk, at) =>
      decodePrivateChunk(chunk, {
        ...{ key: newest.chunkKey, nameKey: newest.blockNameKey, epoch: 4, plainBytes: BLOCK_BYTES },
        digest: nameOf(at + 1),
      }),
    );
    expect(Buffer.concat(opened).equals(bytes)).toBe(true);
  });

  it('never saves a block under the name of another one', async () => {
    await expect(runPackTask({ ...task, bytes: block(1), digests: digestBytes(nameOf(2)) })).rejects.toMatchObject({
      code: 'local-io',
    });
  });
});
