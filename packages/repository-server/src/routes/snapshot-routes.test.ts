/** Uploading in parts and reading by range, through the routes. */
import { SNAPSHOT_PART_BYTES_MAX } from '@collective/shared';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkRepository } from '../repository/check-repository.js';
import { type MadeSnapshot, type TestBackup } from '../testing/test-backup.js';
import { openSubscriber, type Subscriber, written } from '../testing/test-subscriber.js';
import { type TestReply } from '../testing/test-repository.js';
import { rangeOf } from './snapshot-data-route.js';

let world: Subscriber;
let backup: TestBackup;
let first: MadeSnapshot;
beforeAll(async () => {
  world = await openSubscriber({ limits: { openUploadsPerAccountMax: 3, uploadBytesMax: 20_000 } });
  backup = world.backup;
  first = await backup.save({ plan: written({ 3: 1, 4: 2, 299: 3 }) });
});
afterAll(async () => {
  expect((await checkRepository(world.server.repository)).problems).toEqual([]);
  await world.server.close();
});

const answer = (reply: TestReply): unknown[] => [reply.status, reply.json()['code']];
const read = (headers: Record<string, string>, number = 1): Promise<TestReply> =>
  backup.request('snapshotData', { params: { number }, headers });

describe('the data of a snapshot', () => {
  test('comes whole without a range, and by first, last and suffix ranges with one', async () => {
    const size = first.data.length;
    const ranges: [string, number, number][] = [
      ['bytes=0-0', 0, 1],
      ['bytes=10-19', 10, 20],
      ['bytes=100-', 100, size],
      ['bytes=-56', size - 56, size],
      [`bytes=5-${size + 1_000}`, 5, size],
    ];
    for (const [range, from, to] of ranges) {
      const reply = await read({ range });
      expect([reply.status, reply.headers['content-range']], range).toEqual([206, `bytes ${from}-${to - 1}/${size}`]);
      expect(reply.body.equals(first.data.subarray(from, to)), range).toBe(true);
    }
    const whole = await read({});
    expect([whole.status, whole.headers['content-range'], whole.body.equals(first.data)]).toEqual([
      200,
      undefined,
      true,
    ]);
    expect((await read({ range: 'bytes=0-9', 'if-match': String(whole.headers['etag']) })).status).toBe(206);
    expect(answer(await read({ 'if-match': '"other"' }))).toEqual([409, 'conflict']);
  });
  test.each(['bytes=', 'bytes=-', 'bytes=-0', 'bytes=5-4', 'bytes=0-1,4-5', 'items=0-1', 'bytes=999999999-', 'x'])(
    'is refused for the range %s, and says how long the object is',
    async (range) => {
      const reply = await read({ range });
      expect(answer(reply)).toEqual([400, 'bad-request']);
      expect(reply.json()['data']).toEqual({ objectBytes: first.data.length });
    },
  );
  test('any text as a range is refused or lies within the object and one part', () => {
    const texts = fc.oneof(
      fc.string({ maxLength: 30 }),
      fc.tuple(fc.option(fc.nat()), fc.option(fc.nat())).map(([from, to]) => `bytes=${from ?? ''}-${to ?? ''}`),
    );
    fc.assert(
      fc.property(texts, fc.integer({ min: 64, max: 2 ** 40 }), (text, objectBytes) => {
        try {
          const { byteOffset, byteLength } = rangeOf(text, objectBytes);
          expect(byteOffset).toBeGreaterThanOrEqual(0);
          expect(byteLength).toBeGreaterThan(0);
          expect(byteLength).toBeLessThanOrEqual(SNAPSHOT_PART_BYTES_MAX);
          expect(byteOffset + byteLength).toBeLessThanOrEqual(objectBytes);
        } catch (error) {
          expect(error).toMatchObject({ code: 'bad-request', data: { objectBytes } });
        }
      }),
    );
  });
  test('of a longer one the beginning comes; without a range it is refused', () => {
    const objectBytes = 10 * SNAPSHOT_PART_BYTES_MAX;
    expect(rangeOf('bytes=7-', objectBytes)).toEqual({ byteOffset: 7, byteLength: SNAPSHOT_PART_BYTES_MAX });
    expect(() => rangeOf(undefined, objectBytes)).toThrow(/by ranges/);
  });
  test('is not found for a snapshot that there is not', async () => {
    expect(answer(await read({}, 9))).toEqual([404, 'not-found']);
    expect(answer(await backup.request('snapshotManifest', { params: { number: 9 } }))).toEqual([404, 'not-found']);
  });
});

describe('an upload', () => {
  test('grows by parts of any size and order of repetition, and never by a part at another offset', async () => {
    const made = backup.make({ plan: written({ 3: 1, 4: 2, 299: 77 }) });
    const upload = String((await backup.open(made.manifest)).json()['upload']);
    await fc.assert(
      fc.asyncProperty(fc.nat({ max: made.data.length }), fc.nat({ max: made.data.length }), async (from, to) => {
        const state = await backup.request('snapshotUpload', { params: { upload } });
        const receivedBytes = Number(state.json()['receivedBytes']);
        const reply = await backup.send(upload, made.data.subarray(from, Math.max(from, to)), from);
        if (from === receivedBytes) expect(reply.json()).toEqual({ receivedBytes: Math.max(from, to) });
        else expect(reply.json()).toMatchObject({ code: 'wrong-offset', data: { receivedBytes } });
      }),
      { numRuns: 40 },
    );
    const received = Number((await backup.open(made.manifest)).json()['receivedBytes']);
    expect((await backup.send(upload, made.data.subarray(received), received)).status).toBe(200);
    expect((await backup.commit(upload, made.file)).status).toBe(201);
    backup.committed(made);
    expect(answer(await backup.send(upload, made.data, made.data.length))).toEqual([409, 'conflict']);
  });
  test('parts of one offset that come at once: one is taken', async () => {
    const made = backup.make({ plan: written({ 3: 50 }) });
    const upload = String((await backup.open(made.manifest)).json()['upload']);
    const replies = await Promise.all([1, 2, 3, 4].map(() => backup.send(upload, made.data)));
    expect(replies.map(({ status }) => status).sort()).toEqual([200, 409, 409, 409]);
    expect((await backup.commit(upload, made.file)).status).toBe(201);
    backup.committed(made);
  });
  test('is bounded: bytes in all, a part, and how many are open', async () => {
    const { manifest } = backup.make({ plan: written({ 3: 60 }) });
    const open = (number: number) => backup.open({ ...manifest, number });
    const upload = String((await open(100)).json()['upload']);
    expect(answer(await backup.send(upload, Buffer.alloc(20_001)))).toEqual([413, 'too-large']);
    expect(answer(await backup.send(upload, Buffer.alloc(SNAPSHOT_PART_BYTES_MAX + 1)))).toEqual([413, 'too-large']);
    expect([(await open(101)).status, (await open(102)).status]).toEqual([200, 200]);
    expect((await open(100)).json()).toMatchObject({ upload });
    expect(answer(await open(103))).toEqual([429, 'rate-limited']);
    await backup.request('abandonSnapshotUpload', { params: { upload } });
    expect(answer(await backup.request('abandonSnapshotUpload', { params: { upload } }))).toEqual([404, 'not-found']);
    expect((await open(103)).status).toBe(200);
    world.server.clock.advance(3_000);
  });
});

describe('hostile input', () => {
  const REFUSALS = [400, 401, 403, 404, 409, 413];
  /** The bytes with a few of them changed, cut off, or with others behind them. */
  const spoilt = (whole: Buffer): fc.Arbitrary<Buffer> =>
    fc.oneof(
      fc
        .array(fc.tuple(fc.nat({ max: whole.length - 1 }), fc.integer({ min: 1, max: 255 })), {
          minLength: 1,
          maxLength: 4,
        })
        .map((flips) => {
          const bytes = Buffer.from(whole);
          for (const [at, by] of flips) bytes[at] = (bytes[at] ?? 0) ^ by;
          return bytes;
        }),
      fc.nat({ max: whole.length - 1 }).map((length) => whole.subarray(0, length)),
      // Blanks after a JSON text are none of its business.
      fc
        .uint8Array({ minLength: 1, maxLength: 40 })
        .filter((tail) => Buffer.from(tail).toString('latin1').trim() !== '')
        .map((tail) => Buffer.concat([whole, tail])),
      fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
    );
  const numbers = () =>
    world.server.repository.catalogue.subscriptions.snapshotNumbers({
      account: world.person.account,
      subscription: backup.subscription,
    });

  test('spoilt objects and spoilt manifests are refused, and nothing is stored; the whole ones are taken afterwards', async () => {
    for (const { id } of await world.server.repository.catalogue.subscriptions.openSnapshotUploads('ursula'))
      await backup.request('abandonSnapshotUpload', { params: { upload: id } });
    const made = backup.make({ plan: written({ 3: 70, 4: 71, 298: 72 }) });
    const before = await numbers();
    await fc.assert(
      fc.asyncProperty(spoilt(made.data), async (data) => {
        if (data.equals(made.data)) return;
        const { reply, upload } = await backup.upload({ ...made, data });
        expect(REFUSALS).toContain(reply.status);
        await backup.request('abandonSnapshotUpload', { params: { upload } });
      }),
      { numRuns: 120 },
    );
    const upload = String((await backup.open(made.manifest)).json()['upload']);
    await backup.send(upload, made.data);
    await fc.assert(
      fc.asyncProperty(spoilt(made.file), async (file) => {
        if (!file.equals(made.file)) expect(REFUSALS).toContain((await backup.commit(upload, file)).status);
      }),
      { numRuns: 150 },
    );
    expect(await numbers()).toEqual(before);
    expect((await backup.commit(upload, made.file)).status).toBe(201);
    backup.committed(made);
  });
  test('bodies of another shape are a bad request, whatever they are', async () => {
    const routes = ['createSubscription', 'takeLease', 'openSnapshotUpload'] as const;
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...routes), fc.jsonValue(), async (name, body) => {
        expect((await backup.request(name, { body: { body } })).status).toBe(400);
      }),
      { numRuns: 60 },
    );
    expect(
      (await backup.request('uploadSnapshotPart', { params: { upload: 'a'.repeat(32) }, body: Buffer.alloc(1) }))
        .status,
    ).toBe(400);
    for (const subscription of ['A'.repeat(32), 'a'.repeat(31), '..'])
      expect([400, 404]).toContain(
        (await world.server.request('snapshots', { token: world.person.token, params: { subscription } })).status,
      );
  });
});
