import { beforeEach, describe, expect, it } from 'vitest';
import { CollectiveError, encodeSegment, sha256, type Digest } from '@collective/shared';
import { RANK, type BlockRequest, type GetChunkOptions, type ObjectSegment } from '../block-store.js';
import { FaultCounters } from '../faults.js';
import { settle } from '../testing/eventually.js';
import { GatedStore } from '../testing/test-stores.js';
import { BootObjectStore } from './boot-object-store.js';
import { RaisableRank } from './raisable-rank.js';
import { UNKNOWN_LINE } from './scheduler-plan.js';
import { SchedulingStore } from './scheduling-store.js';

const BLOCK_BYTES = 4_096;
const blocks = [1, 2, 3, 4].map((seed) => Buffer.alloc(BLOCK_BYTES, seed));
const packed = [blocks.slice(0, 2), blocks.slice(2)].map((held) => encodeSegment(held, { level: 3 }));
const chunkOf = (digest: string): Buffer => packed.find((each) => each.digest === digest)?.chunk ?? Buffer.alloc(0);
const digests = blocks.map((block) => sha256(block));
const segments = packed.map(({ digest, chunk }, at): ObjectSegment => ({
  digest,
  chunkBytes: chunk.length,
  digests: digests.slice(at * 2, at * 2 + 2),
}));
const request = (at: number): BlockRequest => {
  const [digest, segment] = [digests[at], segments[at >> 1]];
  if (digest === undefined || segment === undefined) throw new Error(`there is no block ${at}`);
  return { digest, segment, blockBytes: BLOCK_BYTES, neighbourhood: 0 };
};

type Asked = {
  readonly digest: Digest;
  readonly fetchClass: string;
  readonly signal: AbortSignal | undefined;
  readonly answer: (chunk?: Buffer) => void;
  readonly fail: (error: Error) => void;
};

/** A server whose answers the test gives, in whatever order. */
class GatedChunks {
  readonly asked: Asked[] = [];

  getPart(
    digest: Digest,
    { byteOffset, byteLength }: { readonly byteOffset: number; readonly byteLength: number },
    { rank, signal }: GetChunkOptions,
  ): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const { fetchClass } = rank;
      const answer = (chunk = chunkOf(digest)): void => resolve(chunk.subarray(byteOffset, byteOffset + byteLength));
      this.asked.push({ digest, fetchClass, signal, answer, fail: reject });
    });
  }

  part(at: number): Asked {
    const part = this.asked[at];
    if (part === undefined) throw new Error(`part ${at} was not asked for`);
    return part;
  }
}

let alone: GatedStore;
let chunks: GatedChunks;
let faults: FaultCounters;
let store: BootObjectStore;
beforeEach(() => {
  alone = new GatedStore();
  chunks = new GatedChunks();
  faults = new FaultCounters();
  const scheduling = new SchedulingStore(new GatedStore());
  store = new BootObjectStore(alone, { scheduling, chunks, line: () => UNKNOWN_LINE, faults });
});

const ahead = (at: number): Promise<Buffer> => store.get(request(at), { rank: RANK.trace });

describe('blocks of one object', () => {
  it('come with one read of each segment, segments in the order in which they were asked for', async () => {
    const wanted = [0, 1, 2, 3].map(ahead);
    await settle();
    expect(chunks.asked.map(({ digest }) => digest)).toEqual(packed.map(({ digest }) => digest));
    for (const { answer } of chunks.asked) answer();
    expect(await Promise.all(wanted)).toEqual(blocks);
    expect(alone.calls).toHaveLength(0);
  });

  it('are fetched alone for whoever waits for them, unless they are on their way', async () => {
    const demanded = store.get(request(0), { rank: RANK.demand });
    alone.call(0).resolve(blocks[0] ?? Buffer.alloc(0));
    expect(await demanded).toBe(blocks[0]);
    expect(chunks.asked).toHaveLength(0);

    const rank = new RaisableRank('trace');
    const raised = store.get(request(1), { rank });
    await settle();
    rank.raise('demand');
    chunks.part(0).answer();
    expect(await raised).toEqual(blocks[1]);
    expect(alone.calls).toHaveLength(1);
  });

  it('are fetched alone when they are wanted before the turn of their segment', async () => {
    const scheduling = { inTurn: () => new Promise<never>(() => undefined) };
    store = new BootObjectStore(alone, { scheduling, chunks, line: () => UNKNOWN_LINE, faults });
    const first = ahead(0);
    first.catch(() => undefined);
    const rank = new RaisableRank('trace');
    const raised = store.get(request(2), { rank });
    await settle();
    expect(alone.calls).toHaveLength(0);
    rank.raise('demand');
    await settle();
    alone.call(0).resolve(blocks[2] ?? Buffer.alloc(0));
    expect(await raised).toBe(blocks[2]);
  });

  it.each([
    ['is gone', new CollectiveError('block-missing', 'gone'), {}],
    ['holds something else', Buffer.alloc(200, 7), { 'net-not-a-block': 1 }],
    ['holds other blocks', packed[1]?.chunk, { 'net-wrong-bytes': 1 }],
  ])('are fetched alone when their segment %s, which is then not asked for again', async (_, answer, counts) => {
    const wanted = ahead(0);
    await settle();
    if (answer instanceof Error) chunks.part(0).fail(answer);
    else chunks.part(0).answer(answer);
    await settle();
    alone.call(0).resolve(blocks[0] ?? Buffer.alloc(0));
    expect(await wanted).toBe(blocks[0]);
    expect(faults.counts).toEqual(counts);
    void ahead(1).catch(() => undefined);
    await settle();
    expect(chunks.asked).toHaveLength(1);
    expect(alone.calls).toHaveLength(2);
  });

  it('are asked for by their object again after the line has failed', async () => {
    const wanted = ahead(0);
    await settle();
    chunks.part(0).fail(new CollectiveError('repository-unreachable', 'no'));
    await settle();
    alone.call(0).reject(new CollectiveError('repository-unreachable', 'no'));
    await expect(wanted).rejects.toMatchObject({ code: 'repository-unreachable' });
    const again = ahead(0);
    await settle();
    chunks.part(1).answer();
    expect(await again).toEqual(blocks[0]);
  });

  it('are given up with the last who wants one, and the next segment has its turn', async () => {
    const abort = new AbortController();
    const left = [0, 1].map((at) => store.get(request(at), { rank: RANK.trace, signal: abort.signal }));
    const next = ahead(2);
    await settle();
    abort.abort(new Error('gone'));
    await expect(Promise.all(left)).rejects.toThrow('gone');
    await settle();
    expect(chunks.part(0).signal?.aborted).toBe(true);
    chunks.part(1).answer();
    expect(await next).toEqual(blocks[2]);
  });
});
