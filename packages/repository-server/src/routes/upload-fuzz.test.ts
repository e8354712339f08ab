import { encodeChangedPairs, encodeChunkBatch } from '@collective/shared';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { checkRepository } from '../repository/check-repository.js';
import { chunkOf, manifestOf, mapOf, signManifest, TestPublisher } from '../testing/test-publisher.js';
import { type TestPerson, TestRepository } from '../testing/test-repository.js';

let server: TestRepository;
let alice: TestPerson;
let publisher: TestPublisher;
let upload: string;

beforeAll(async () => {
  server = await TestRepository.open();
  alice = await server.join('alice', 'publisher');
  await server.allow(alice, 'debian');
  publisher = new TestPublisher(server, alice);
  upload = await publisher.openUpload('debian', null);
});
afterAll(() => server.close());

const PLAN = [1, 2, 0, 3];
const REFUSALS = [400, 403, 404, 409, 413];

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
    fc.uint8Array({ minLength: 1, maxLength: 40 }).map((tail) => Buffer.concat([whole, tail])),
    fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  );

test('spoilt chunk batches are refused, or do what the whole one does, and never fail the server', async () => {
  const batch = encodeChunkBatch([1, 2, 3].map(chunkOf));
  await fc.assert(
    fc.asyncProperty(spoilt(batch), async (bytes) => {
      const { status } = await publisher.sendBatch(upload, bytes);
      // Flips that undo each other leave the batch as it was.
      if (bytes.equals(batch)) expect(status).toBe(200);
      else expect(bytes.length >= 8 && bytes.readUInt32LE(4) === 0 ? [200, ...REFUSALS] : REFUSALS).toContain(status);
    }),
    { numRuns: 200 },
  );
  expect((await checkRepository(server.repository)).problems).toEqual([]);
});

test('spoilt lists of changed pairs are refused, or are another list, and never fail the server', async () => {
  const pairs = encodeChangedPairs(mapOf(PLAN).changesSince(undefined));
  await fc.assert(
    fc.asyncProperty(spoilt(pairs), async (body) => {
      const { status } = await server.request('uploadDisk', {
        token: alice.token,
        params: { upload, disk: 'system' },
        query: { since: 'none' },
        body,
      });
      expect([200, ...REFUSALS]).toContain(status);
    }),
    { numRuns: 200 },
  );
  expect((await checkRepository(server.repository)).problems).toEqual([]);
});

test('spoilt manifests are refused, whatever byte is wrong, and the whole one is taken afterwards', async () => {
  await publisher.sendChunks(upload, PLAN);
  await publisher.sendDisk(upload, PLAN);
  const file = signManifest(
    manifestOf({ appliance: 'debian', version: 1, parent: null, plan: PLAN }),
    alice.publishing,
  );
  await fc.assert(
    fc.asyncProperty(spoilt(file), async (bytes) => {
      // White space between tokens says the same, and is accepted (docs/formats/envelope.md).
      if (isSameJson(bytes, file)) return;
      expect(REFUSALS).toContain((await publisher.commit(upload, bytes)).status);
    }),
    { numRuns: 300 },
  );
  expect(await server.repository.catalogue.versions.appliances()).toEqual([]);
  expect((await publisher.commit(upload, file)).status).toBe(201);
});

const isSameJson = (a: Uint8Array, b: Uint8Array): boolean => {
  try {
    const [left, right] = [a, b].map((bytes) => JSON.stringify(JSON.parse(Buffer.from(bytes).toString('utf8'))));
    return left === right;
  } catch {
    return false;
  }
};
