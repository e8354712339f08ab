/** The cache of private blocks: encrypted on the medium, checked by the keys of the ring, thrown away with another disk key. */
import { createHmac } from 'node:crypto';
import { open, readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  CollectiveError,
  encodeChunk,
  encodePrivateChunk,
  privateBlockDigest,
  sha256,
  type Digest,
} from '@collective/shared';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { decryptSectors } from '../../storage/encrypted-file.js';
import { LocalFileSystem } from '../../storage/local-file-system.js';
import { RANK, type BlockStore } from '../block-store.js';
import { alignedBuffer, openForScrub, SlotScrubber } from '../cache/slot-scrubber.js';
import { openLocalCache, temporaryFolder, type LocalCache } from '../testing/local-cache.js';
import { patternBlock } from '../testing/test-disk.js';
import { MemoryStore, requestFor } from '../testing/test-stores.js';
import { BlockKeyRing, BLOCK_KEYS_MAX, type BlockKeys } from './block-key-ring.js';
import { preparePrivateCache, PrivateCacheKeys } from './private-cache-keys.js';
import { privateDecoder } from './private-decoder.js';

const BLOCK = 16_384;
const keyOf = (fill: number): Buffer => Buffer.alloc(32, fill);
const keysOf = (epoch: number): BlockKeys[number] => ({
  epoch,
  blockNameKey: keyOf(epoch).toString('base64url'),
  chunkKey: keyOf(100 + epoch).toString('base64url'),
});
const diskKeyOf = (fill: number): Buffer => Buffer.concat([Buffer.alloc(32, fill), Buffer.alloc(32, fill + 1)]);
const blockAt = (blockIndex: number): Buffer => patternBlock({ seed: 7, blockIndex, blockBytes: BLOCK });
const nameIn = (epoch: number, block: Buffer): Digest => privateBlockDigest(keyOf(epoch), block);

describe('block key ring', () => {
  const block = blockAt(1);

  it('knows the names by each of its keys, and no others', () => {
    const ring = new BlockKeyRing([keysOf(1), keysOf(3)]);
    for (const epoch of [1, 2, 3]) {
      expect(ring.isNamed(block, nameIn(epoch, block))).toBe(epoch !== 2);
      expect(ring.beginsWith(block, createHmac('sha256', keyOf(epoch)).update(block).digest())).toBe(epoch !== 2);
    }
    expect(ring.isNamed(block, sha256(block))).toBe(false);
    expect(ring.isNamed(blockAt(2), nameIn(1, block))).toBe(false);
    expect(new BlockKeyRing().isNamed(block, nameIn(1, block))).toBe(false);
  });

  it('tries the newest first, takes later keys of an epoch over earlier ones, and keeps the newest when there are too many', () => {
    const ring = new BlockKeyRing([keysOf(2), keysOf(7), keysOf(5)]);
    ring.add([{ ...keysOf(6), epoch: 5 }]);
    expect(ring.keys.map(({ epoch }) => epoch)).toEqual([7, 5, 2]);
    expect(ring.of(5)?.blockNameKey).toEqual(keyOf(6));
    ring.add(Array.from({ length: BLOCK_KEYS_MAX }, (_, at) => ({ ...keysOf(1), epoch: 1_000 + at })));
    expect([ring.keys.length, ring.keys[0]?.epoch, ring.keys.at(-1)?.epoch]).toEqual([BLOCK_KEYS_MAX, 1_255, 1_000]);
  });
});

describe('private decoder', () => {
  const plain = blockAt(3);
  const digest = nameIn(1, plain);
  const chunkOf = (epoch: number, key: Buffer, of = digest): Buffer =>
    encodePrivateChunk(plain, { key, epoch, digest: of });
  const decode = privateDecoder(new BlockKeyRing([keysOf(1), keysOf(2)]));
  const codeOf = (chunk: Buffer, of: Digest = digest): string => {
    try {
      return decode(chunk, { digest: of, plainBytes: BLOCK }).equals(plain) ? 'right' : 'wrong bytes';
    } catch (error) {
      return error instanceof CollectiveError ? error.code : String(error);
    }
  };

  it('decodes by the epoch that the chunk names', () => {
    expect(codeOf(chunkOf(1, keyOf(101)))).toBe('right');
    const second = nameIn(2, plain);
    expect(codeOf(chunkOf(2, keyOf(102), second), second)).toBe('right');
  });

  it('refuses another key, another block’s chunk, an epoch that it lacks, public chunks, what is cut, and anything', () => {
    expect(codeOf(chunkOf(1, keyOf(102)))).toBe('digest-mismatch');
    expect(codeOf(chunkOf(1, keyOf(101), nameIn(1, blockAt(4))))).toBe('digest-mismatch');
    expect(codeOf(chunkOf(2, keyOf(102)))).toBe('digest-mismatch'); // the name is not of that epoch
    expect(codeOf(chunkOf(9, keyOf(109)))).toBe('wrong-key');
    expect(codeOf(encodeChunk(plain))).toBe('malformed');
    const good = chunkOf(1, keyOf(101));
    for (const cut of [0, 10, 47, 48, good.length - 1]) expect(codeOf(good.subarray(0, cut))).not.toBe('right');
    // Garbage is not taken for a chunk of an epoch that will come: it is asked for again at once.
    expect(codeOf(Buffer.alloc(4_000, 7))).toBe('malformed');
    const garbled = chunkOf(9, keyOf(109));
    garbled[100] = (garbled[100] ?? 0) ^ 1;
    expect(codeOf(garbled)).toBe('digest-mismatch');
  });
});

describe('private cache', () => {
  const fileSystem = new LocalFileSystem();
  const ring = new BlockKeyRing([keysOf(1), keysOf(2)]);
  const blocks = new Map(
    Array.from({ length: 12 }, (_, at) => [nameIn(1 + (at % 2), blockAt(at)), blockAt(at)] as const),
  );
  const digests = [...blocks.keys()];
  let temporary: Awaited<ReturnType<typeof temporaryFolder>>;
  let cache: LocalCache | undefined;
  beforeEach(async () => {
    temporary = await temporaryFolder();
  });
  afterEach(async () => {
    await cache?.close();
    cache = undefined;
    await temporary[Symbol.asyncDispose]();
  });
  const openWith = async (below: BlockStore, diskKey = diskKeyOf(1), useNowait = true): Promise<LocalCache> => {
    await cache?.close();
    const keys = new PrivateCacheKeys(diskKey);
    await preparePrivateCache(fileSystem, temporary.folder, keys);
    cache = await openLocalCache(temporary.folder, below, {
      ...{ blockBytes: BLOCK, useNowait, naming: ring },
      cipherOf: (blockBytes) => keys.cipherOf(blockBytes),
    });
    return cache;
  };
  const readAll = async ({ store }: LocalCache): Promise<void> => {
    for (const [digest, block] of blocks) {
      const found = await store.get(requestFor(digest, BLOCK), { rank: RANK.demand });
      expect(found.equals(block)).toBe(true);
    }
  };
  const slots = (): string => path.join(temporary.folder, `${BLOCK}.slots`);
  const none = new MemoryStore(new Map());

  it.each([true, false])(
    'serves what was filled, also to the next process; reads without waiting: %s',
    async (useNowait) => {
      await readAll(await openWith(new MemoryStore(blocks), diskKeyOf(1), useNowait));
      await readAll(await openWith(none, diskKeyOf(1), useNowait));
      // Again, from slots that are marked: without a promise, at any place of the block.
      const words = new Uint32Array(4);
      for (const [digest, block] of blocks) {
        Buffer.from(digest, 'hex').copy(Buffer.from(words.buffer), 0, 0, 16);
        const slot = cache?.reader.find(words, 0) ?? -1;
        for (const [within, length] of [
          [0, BLOCK],
          [4096, 4096],
          [5000, 700],
          [511, 2],
        ] as const) {
          const part = Buffer.alloc(length);
          if (cache?.reader.tryRead(slot, words, 0, part, within) === true)
            expect(part.equals(block.subarray(within, within + length))).toBe(true);
          else expect(useNowait).toBe(false);
        }
      }
      expect(cache?.store.counters).toEqual({ hits: blocks.size, misses: 0 });
    },
  );

  it('has nothing plain on the medium, and equal blocks of two places look different', async () => {
    await readAll(await openWith(new MemoryStore(blocks)));
    await cache?.close();
    cache = undefined;
    const medium = await readFile(slots());
    for (const block of blocks.values()) expect(medium.includes(block.subarray(1024, 1040))).toBe(false);
    const sectors = new Set(
      Array.from({ length: medium.length / 512 }, (_, at) => medium.toString('latin1', at * 512, at * 512 + 512)),
    );
    expect(sectors.size).toBe(medium.length / 512);
  });

  it('fetches again what decayed on the medium, and what no key of the ring names', async () => {
    await readAll(await openWith(new MemoryStore(blocks)));
    await cache?.close();
    cache = undefined;
    const file = await open(slots(), 'r+');
    await file.write(Buffer.alloc(1, 0xff), 0, 1, 5_000);
    await file.close();
    const below = new MemoryStore(blocks);
    const again = await openWith(below);
    await readAll(again);
    expect(below.asked).toHaveLength(1);
    expect(again.reader.counters.damaged).toBe(1);
  });

  it('is thrown away with another disk key, or when nobody knows its key, and kept with its own', async () => {
    await readAll(await openWith(new MemoryStore(blocks)));
    const again = new MemoryStore(blocks);
    await readAll(await openWith(again, diskKeyOf(3)));
    expect(again.asked).toHaveLength(blocks.size);
    await readAll(await openWith(none, diskKeyOf(3)));
    await cache?.close();
    cache = undefined;
    await writeFile(path.join(temporary.folder, 'other'), 'not ours');
    for (const check of ['', 'x'.repeat(1_000)]) {
      await writeFile(path.join(temporary.folder, 'key-check'), check);
      await preparePrivateCache(fileSystem, temporary.folder, new PrivateCacheKeys(diskKeyOf(3)));
      expect((await readdir(temporary.folder)).sort()).toEqual(['key-check', 'other']);
    }
  });

  it('is scrubbed by the keys of the ring: decay is found, what is right is left', async () => {
    await readAll(await openWith(new MemoryStore(blocks)));
    const keys = new PrivateCacheKeys(diskKeyOf(1));
    const memory = (await cache?.writer.file(BLOCK))?.memory;
    if (memory === undefined) throw new Error('no slot file');
    const file = openForScrub(slots());
    const cipher = keys.cipherOf(BLOCK);
    const scrubber = new SlotScrubber(
      memory,
      (target, byteOffset) => {
        const bytes = alignedBuffer(BLOCK);
        file.read(bytes, byteOffset);
        decryptSectors(cipher, bytes, byteOffset);
        target.set(bytes);
      },
      ring,
    );
    const verdicts = (): string[] =>
      Array.from({ length: memory.capacity }, (_, slot) => scrubber.check(slot)).filter(
        (verdict) => verdict !== 'free',
      );
    expect(verdicts()).toEqual(digests.map(() => 'good'));
    const writing = await open(slots(), 'r+');
    await writing.write(Buffer.alloc(1, 0xff), 0, 1, 5_000);
    await writing.sync();
    await writing.close();
    expect(verdicts().filter((verdict) => verdict === 'damaged')).toHaveLength(1);
    file.close();
  });
});
