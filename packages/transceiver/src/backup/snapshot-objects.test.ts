import { describe, expect, it } from 'vitest';
import { CollectiveError, encodeChunk, encodeSnapshotObject, sha256, type Digest } from '@collective/shared';
import type { ObjectPart, ObjectRange } from '../repository/repository-client.js';
import { SnapshotObjects } from './snapshot-objects.js';

const record = (seed: number): { readonly digest: Digest; readonly chunk: Buffer } => {
  const plain = Buffer.alloc(300, `${String(seed)} `);
  return { digest: sha256(plain), chunk: encodeChunk(plain) };
};

/** A server of objects that a test replaces; answers at most so many bytes. */
class Objects {
  readonly objects = new Map<number, Buffer>();
  readonly asked: ObjectRange[] = [];
  answerBytesMax = 4_194_304;

  async objectRange(range: ObjectRange): Promise<ObjectPart> {
    this.asked.push(range);
    const bytes = this.objects.get(range.number);
    if (bytes === undefined) throw new CollectiveError('not-found');
    const etag = sha256(bytes);
    if (range.ifMatch !== undefined && range.ifMatch !== etag) throw new CollectiveError('conflict');
    const [first = '', last = ''] = range.range.split('-');
    const from = first === '' ? Math.max(0, bytes.length - Number(last)) : Number(first);
    const to = Math.min(first === '' ? bytes.length : Number(last) + 1, from + this.answerBytesMax);
    return { bytes: bytes.subarray(from, to), byteOffset: from, objectBytes: bytes.length, etag };
  }
}

const collect = async (chunks: AsyncIterable<readonly [Digest, Buffer]>): Promise<Map<Digest, Buffer>> => {
  const found = new Map<Digest, Buffer>();
  for await (const [digest, chunk] of chunks) {
    expect(found.has(digest)).toBe(false);
    found.set(digest, Buffer.from(chunk));
  }
  return found;
};

describe('chunks of snapshot objects', () => {
  it('come from the newest object that has them; those that none has are left out', async () => {
    const server = new Objects();
    server.objects.set(1, encodeSnapshotObject([record(1), record(2)]));
    server.objects.set(3, encodeSnapshotObject([record(2), record(3)]));
    const objects = new SnapshotObjects(server, '5'.repeat(32));
    const wanted = [1, 2, 3, 4].map((seed) => record(seed).digest);
    const found = await collect(objects.chunks(wanted, [1, 3]));
    expect([...found.keys()].sort()).toEqual(wanted.slice(0, 3).sort());
    for (const seed of [1, 2, 3]) expect(found.get(record(seed).digest)?.equals(record(seed).chunk)).toBe(true);
    // Index and one range each: neighbours come together.
    expect(server.asked.map(({ number }) => number)).toEqual([3, 3, 1, 1]);
    await collect(objects.chunks(wanted, [1, 3]));
    expect(server.asked.length).toBe(6);
  });

  it('an index of more than the first request, and answers that are cut short', async () => {
    const server = new Objects();
    const records = Array.from({ length: 3_000 }, (_none, seed) => record(seed));
    server.objects.set(1, encodeSnapshotObject(records));
    server.answerBytesMax = 70_000;
    const objects = new SnapshotObjects(server, '5'.repeat(32));
    const found = await collect(
      objects.chunks(
        records.map(({ digest }) => digest),
        [1],
      ),
    );
    expect(found.size).toBe(3_000);
    expect(records.every(({ digest, chunk }) => found.get(digest)?.equals(chunk))).toBe(true);
  });

  it('an object that was rewritten between index and chunk is looked at again', async () => {
    const server = new Objects();
    server.objects.set(1, encodeSnapshotObject([record(1), record(2)]));
    const objects = new SnapshotObjects(server, '5'.repeat(32));
    await objects.index(1);
    server.objects.set(1, encodeSnapshotObject([record(2)]));
    const found = await collect(objects.chunks([record(2).digest], [1]));
    expect(found.get(record(2).digest)?.equals(record(2).chunk)).toBe(true);
  });

  it('one that is rewritten all the time, gone, or another answer than was asked for: an error', async () => {
    const server = new Objects();
    let seed = 10;
    server.objects.set(1, encodeSnapshotObject([record(1)]));
    const restless = {
      objectRange: async (range: ObjectRange) => {
        const part = await server.objectRange(range);
        server.objects.set(1, encodeSnapshotObject([record(1), record((seed += 1))]));
        return part;
      },
    };
    const one = [record(1).digest];
    await expect(collect(new SnapshotObjects(restless, 'x').chunks(one, [1]))).rejects.toMatchObject({
      code: 'conflict',
    });
    await expect(collect(new SnapshotObjects(server, 'x').chunks(one, [9]))).rejects.toMatchObject({
      code: 'not-found',
    });
    const lying = {
      objectRange: async (range: ObjectRange) => {
        const part = await server.objectRange(range);
        return range.ifMatch === undefined ? part : { ...part, byteOffset: part.byteOffset + 1 };
      },
    };
    await expect(collect(new SnapshotObjects(lying, 'x').chunks(one, [1]))).rejects.toMatchObject({
      code: 'malformed',
    });
  });
});
