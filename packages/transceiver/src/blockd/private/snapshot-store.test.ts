/** Chunks out of snapshot objects, over a real HTTP server that has several of them, loses them, rewrites them and lies. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { encodeSnapshotObject, sha256, SNAPSHOT_FOOTER_BYTES, type Digest } from '@collective/shared';
import { afterEach, expect, it } from 'vitest';
import { RANK, type BlockRequest } from '../block-store.js';
import { LinkMeter } from '../fetch/link-meter.js';
import { SnapshotStore } from './snapshot-store.js';

const SUBSCRIPTION = 'ab'.repeat(16);
const PART_BYTES_MAX = 4 << 20;
const closers: (() => PromiseLike<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const digestOf = (number: number): Digest => sha256(Buffer.from(String(number)));
/** Not looked into by the store. */
const chunkOf = (number: number): Buffer => Buffer.alloc(60 + (number % 50), number);
const objectOf = (numbers: readonly number[]): Buffer =>
  encodeSnapshotObject(numbers.map((number) => ({ digest: digestOf(number), chunk: chunkOf(number) })));
const range = (from: number, end: number): number[] => Array.from({ length: end - from }, (_, at) => from + at);

const open = async (objects: Readonly<Record<number, Buffer>>) => {
  const held = new Map(Object.entries(objects).map(([number, bytes]) => [Number(number), bytes]));
  const requests: { readonly object: number; readonly range: string }[] = [];
  /** Answers itself when it returns true. */
  const behaviour = { before: (_request: IncomingMessage, _response: ServerResponse): boolean => false };
  const server = createServer((request, response) => {
    const object = Number(/\/snapshots\/(\d+)\/data$/.exec(request.url ?? '')?.[1]);
    const asked = request.headers.range ?? '';
    requests.push({ object, range: asked });
    if (behaviour.before(request, response)) return;
    const bytes = held.get(object);
    const answer = (status: number, headers: Record<string, string> = {}, body: Buffer = Buffer.alloc(0)): void => {
      response.writeHead(status, headers);
      response.end(body);
    };
    if (bytes === undefined) return answer(404);
    const footer = bytes.subarray(-SNAPSHOT_FOOTER_BYTES);
    const etag = `"${footer.toString('hex', 16, 48)}"`;
    const ifMatch = request.headers['if-match'];
    if (ifMatch !== undefined && ifMatch !== etag) return answer(409);
    const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(asked) ?? [];
    const from = first === '' ? Math.max(0, bytes.length - Number(last)) : Number(first);
    const end = Math.min(first === '' ? bytes.length : Number(last) + 1, bytes.length, from + PART_BYTES_MAX);
    if (from >= end) return answer(400);
    if (end - from === bytes.length) return answer(200, { etag }, bytes);
    answer(206, { etag, 'content-range': `bytes ${from}-${end - 1}/${bytes.length}` }, bytes.subarray(from, end));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(() => new Promise((resolve) => (server.closeAllConnections(), server.close(resolve))));
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  let refusals = 0;
  const store = new SnapshotStore(
    { origin, token: 'a token' },
    { meter: new LinkMeter(() => performance.now()), onTokenRefused: () => (refusals += 1) },
  );
  closers.push(() => store.close());
  store.setSource('disk', { subscription: SUBSCRIPTION, objects: [...held.keys()] });
  const get = (number: number, more: Partial<BlockRequest> = {}): Promise<Buffer> =>
    store.getChunk(
      { digest: digestOf(number), blockBytes: 4096, neighbourhood: 0, source: 'disk', ...more },
      { rank: RANK.demand },
    );
  const indexReads = (): number[] =>
    requests.filter((request) => request.range === 'bytes=-65536').map(({ object }) => object);
  return { store, get, held, requests, behaviour, indexReads, refusals: () => refusals };
};

it('finds a chunk by the index, which is read once, by one range each', async () => {
  const { get, requests } = await open({ 1: objectOf(range(0, 100)) });
  for (const number of [5, 99, 0, 5]) expect((await get(number)).equals(chunkOf(number))).toBe(true);
  expect(requests).toHaveLength(1 + 4);
  expect(requests[1]?.range).toBe(
    `bytes=${8 + range(0, 5).reduce((sum, at) => sum + chunkOf(at).length, 0)}-${
      8 + range(0, 6).reduce((sum, at) => sum + chunkOf(at).length, 0) - 1
    }`,
  );
});

it('reads an index that is longer than the first range', async () => {
  const { get, requests } = await open({ 3: objectOf(range(0, 30_000)) });
  const numbers = [0, 1, 17_000, 29_999];
  const found = await Promise.all(numbers.map((number) => get(number)));
  numbers.forEach((number, at) => expect(found[at]?.equals(chunkOf(number))).toBe(true));
  // 1.3 MB of index: the tail, and two parts of at most 1 MiB.
  expect(requests).toHaveLength(1 + 2 + numbers.length);
});

it('asks the newest objects first, several at a time, and no more of them than it needs', async () => {
  const objects = Object.fromEntries(range(1, 13).map((number) => [number, objectOf([number, 100 + number])]));
  const { get, indexReads } = await open(objects);
  expect((await get(112)).equals(chunkOf(112))).toBe(true);
  expect(indexReads().sort((a, b) => a - b)).toEqual([9, 10, 11, 12]);
  expect((await get(103)).equals(chunkOf(103))).toBe(true);
  expect(indexReads().sort((a, b) => a - b)).toEqual(range(1, 13));
  for (const number of range(1, 13)) await get(number);
  expect(indexReads()).toHaveLength(12);
});

it('says that a block is missing when no object has it, or its disk is none that is attached', async () => {
  const { get, store, held, indexReads } = await open({ 1: objectOf([1]), 2: objectOf([2]) });
  await expect(get(7)).rejects.toMatchObject({ code: 'block-missing' });
  await expect(get(1, { source: 'another' })).rejects.toMatchObject({ code: 'block-missing' });
  store.setSource('disk', undefined);
  await expect(get(1)).rejects.toMatchObject({ code: 'block-missing' });
  // An object that is not there is asked for again.
  store.setSource('disk', { subscription: SUBSCRIPTION, objects: [1, 3] });
  await expect(get(3)).rejects.toMatchObject({ code: 'block-missing' });
  held.set(3, objectOf([3]));
  expect((await get(3)).equals(chunkOf(3))).toBe(true);
  expect(indexReads().filter((object) => object === 3)).toHaveLength(2);
});

it('reads the index again when the object was rewritten, shorter or gone, and finds the block where it is now', async () => {
  const { get, held } = await open({ 1: objectOf([1, 2, 3, 4]), 2: objectOf([5]) });
  await get(4);
  held.set(1, objectOf([4, 3]));
  expect((await get(4)).equals(chunkOf(4))).toBe(true);
  await expect(get(1)).rejects.toMatchObject({ code: 'block-missing' });
  held.delete(1);
  held.set(2, objectOf([5, 3]));
  await get(5); // its old index
  await expect(get(4)).rejects.toMatchObject({ code: 'block-missing' });
  expect((await get(3)).equals(chunkOf(3))).toBe(true);
});

it('takes an object that is rewritten while its index is read, and gives up one that is rewritten for ever', async () => {
  const { get, held, behaviour, indexReads } = await open({ 1: objectOf(range(0, 3_000)) });
  let rewrites = 0;
  behaviour.before = (request) => {
    // Between the tail and the rest of the index.
    if (request.headers.range !== 'bytes=-65536' && rewrites < 2) {
      rewrites += 1;
      held.set(1, objectOf(range(rewrites, 3_000)));
    }
    return false;
  };
  expect((await get(2_000)).equals(chunkOf(2_000))).toBe(true);
  expect([rewrites, indexReads().length]).toEqual([2, 3]);
  behaviour.before = (request) => {
    if (request.headers.range !== 'bytes=-65536') held.set(1, objectOf(range((rewrites += 1), 3_000)));
    return false;
  };
  await expect(get(2_500)).rejects.toMatchObject({ code: 'internal' });
});

it('does not stop at an index that cannot be read when another object has the block', async () => {
  const { get, behaviour } = await open({ 1: objectOf([1]), 2: objectOf([2]) });
  behaviour.before = (request, response) => {
    if (request.url?.includes('/2/') !== true) return false;
    response.writeHead(503);
    response.end();
    return true;
  };
  expect((await get(1)).equals(chunkOf(1))).toBe(true);
  await expect(get(2)).rejects.toMatchObject({ code: 'internal' });
  behaviour.before = () => false;
  expect((await get(2)).equals(chunkOf(2))).toBe(true); // what failed was not remembered
});

it.each<[string, (bytes: Buffer, response: ServerResponse) => void]>([
  ['is no object', (bytes, response) => response.writeHead(200).end(Buffer.alloc(bytes.length))],
  [
    'has one bit flipped in its index',
    (bytes, response) => {
      const bad = Buffer.from(bytes);
      bad[bytes.length - SNAPSHOT_FOOTER_BYTES - 20] = (bad[bytes.length - SNAPSHOT_FOOTER_BYTES - 20] ?? 0) ^ 1;
      response.writeHead(200).end(bad);
    },
  ],
  ['is cut', (bytes, response) => response.writeHead(200).end(bytes.subarray(0, -1))],
  [
    'says another range',
    (bytes, response) =>
      response.writeHead(206, { 'content-range': `bytes 0-${bytes.length - 1}/${bytes.length + 9}` }).end(bytes),
  ],
  ['says no range', (bytes, response) => response.writeHead(206).end(bytes)],
])('refuses an index that %s, and asks again the next time', async (_name, lie) => {
  const bytes = objectOf([1, 2, 3]);
  const { get, behaviour } = await open({ 1: bytes });
  behaviour.before = (_request, response) => {
    lie(bytes, response);
    return true;
  };
  await expect(get(1)).rejects.toMatchObject({ code: 'block-corrupt' });
  behaviour.before = () => false;
  expect((await get(1)).equals(chunkOf(1))).toBe(true);
});

it('refuses a chunk that is cut, too long for its block, or not what the range says; and tells of a token that is refused', async () => {
  const { get, behaviour, refusals } = await open({ 1: objectOf([1, 2, 3]) });
  await get(1);
  behaviour.before = (_request, response) => {
    response.writeHead(206).end(Buffer.alloc(10));
    return true;
  };
  await expect(get(2)).rejects.toMatchObject({ code: 'block-corrupt' });
  behaviour.before = (_request, response) => {
    response.writeHead(206).end(Buffer.alloc(100_000));
    return true;
  };
  await expect(get(2)).rejects.toMatchObject({ code: 'block-corrupt' });
  // 61 bytes are too many for a block of none.
  await expect(get(1, { blockBytes: -16 })).rejects.toMatchObject({ code: 'block-corrupt' });
  behaviour.before = (_request, response) => {
    response.writeHead(401).end();
    return true;
  };
  await expect(get(2)).rejects.toMatchObject({ code: 'token-expired' });
  expect(refusals()).toBe(1);
});

it('gives up a wait for an index at the waiter’s signal, and the others still get their blocks', async () => {
  const { store, get, behaviour } = await open({ 1: objectOf([1, 2]) });
  let release = (): void => undefined;
  const gate = new Promise<void>((resolve) => (release = resolve));
  behaviour.before = (request, response) => {
    if (request.headers.range !== 'bytes=-65536') return false;
    void gate.then(() => response.writeHead(200).end(objectOf([1, 2])));
    return true;
  };
  const abort = new AbortController();
  const request = { digest: digestOf(1), blockBytes: 4096, neighbourhood: 0, source: 'disk' };
  const leaving = store.getChunk(request, { rank: RANK.trace, signal: abort.signal });
  const staying = get(2);
  abort.abort(new Error('gone'));
  await expect(leaving).rejects.toThrow('gone');
  release();
  expect((await staying).equals(chunkOf(2))).toBe(true);
});
