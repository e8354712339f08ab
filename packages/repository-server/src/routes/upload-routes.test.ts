/** A version on its way up: sessions, chunks, maps, commit, and everything that is refused. Over 400 lines: one server and one story of versions serve all of it. */
import {
  decodeChangedPairs,
  decodeChunkBatch,
  decodeHeads,
  encodeChangedPairs,
  encodeChunk,
  encodeChunkBatch,
  openEnvelope,
  PAYLOAD_TYPES,
  sha256,
} from '@collective/shared';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkRepository } from '../repository/check-repository.js';
import { HEADS } from '../storage/blob-names.js';
import { blockOf, chunkOf, manifestOf, mapOf, signManifest, TestPublisher } from '../testing/test-publisher.js';
import { newKey, type TestPerson, TestRepository } from '../testing/test-repository.js';

let server: TestRepository;
let alice: TestPerson;
let publisher: TestPublisher;

beforeEach(async () => {
  server = await TestRepository.open();
  alice = await server.join('alice', 'publisher');
  await server.allow(alice, 'debian');
  publisher = new TestPublisher(server, alice);
});
afterEach(() => server.close());

const PLAN = [1, 2, 0, 3, 3, 0];
const first = { appliance: 'debian', version: 1, parent: null, plan: PLAN } as const;
const problems = async (): Promise<unknown> => (await checkRepository(server.repository)).problems;
const orphans = async (): Promise<number> => (await checkRepository(server.repository)).orphans.length;
const headOf = async (): Promise<unknown> => {
  const bytes = await server.repository.blobStore.read(HEADS);
  return decodeHeads(openEnvelope(bytes ?? Buffer.alloc(0), { payloadType: PAYLOAD_TYPES.heads }).payload);
};

describe('publishing', () => {
  test('a first version becomes the head, can be read back whole, and the repository checks clean', async () => {
    const { reply, file } = await publisher.publish(first);
    expect(reply.status).toBe(201);
    expect(reply.json()).toEqual({ version: 1, manifest: sha256(file) });
    expect(await headOf()).toMatchObject({
      trust: 2,
      heads: [{ appliance: 'debian', version: 1, manifest: sha256(file) }],
    });
    const params = { name: 'debian', version: 1 };
    const manifest = await server.request('versionManifest', { token: alice.token, params });
    expect(manifest.body.equals(file)).toBe(true);
    const map = await server.request('diskMap', { token: alice.token, params: { ...params, disk: 'system' } });
    expect(decodeChunkBatch(map.body).map(({ digest }) => digest)).toEqual([mapOf(PLAN).build().root]);
    const chunk = await server.request('chunk', { params: { digest: chunkOf(2).digest } });
    expect(chunk.body.equals(encodeChunk(blockOf(2)))).toBe(true);
    expect(await problems()).toEqual([]);
    const [row] = await server.repository.catalogue.versions.versions('debian');
    expect(row).toMatchObject({ indexed: true, state: 'live' });
    expect(row?.chunkBytes).toBeGreaterThan(3 * 48);
  });

  test('the maker of a new appliance may publish the next version, and only what changed is asked for', async () => {
    const one = await publisher.publish(first);
    const plan = [1, 2, 4, 3, 3, 0, 5];
    const upload = await publisher.openUpload('debian', 1);
    expect(
      await publisher.lacking(
        upload,
        [1, 2, 3, 4, 5].map((seed) => chunkOf(seed).digest),
      ),
    ).toEqual([4, 5].map((seed) => chunkOf(seed).digest));
    await publisher.sendChunks(upload, [4, 5]);
    const disk = await publisher.sendDisk(upload, plan, { version: 1, plan: PLAN });
    expect(disk.json()).toEqual({ root: mapOf(plan).build().root });
    const parent = { version: 1, manifest: sha256(one.file) };
    const file = signManifest(manifestOf({ appliance: 'debian', version: 5, parent, plan }), alice.publishing);
    expect((await publisher.commit(upload, file)).status).toBe(201);
    const changes = await server.request('diskChanges', {
      token: alice.token,
      params: { name: 'debian', version: 5, disk: 'system' },
      query: { since: 1 },
    });
    const pairs = [...decodeChangedPairs(changes.body)];
    expect(pairs.map(({ blockIndex }) => blockIndex)).toEqual([2, 6]);
    expect(await problems()).toEqual([]);
  });

  test('a disk that did not change needs no upload of its map', async () => {
    const one = await publisher.publish(first);
    const upload = await publisher.openUpload('debian', 1);
    const parent = { version: 1, manifest: sha256(one.file) };
    const file = signManifest(manifestOf({ ...first, version: 2, parent, title: 'renamed' }), alice.publishing);
    expect((await publisher.commit(upload, file)).status).toBe(201);
  });

  test('the same commit again gets the same answer, another manifest in the same session does not', async () => {
    const { reply, file, upload } = await publisher.publish(first);
    const again = await publisher.commit(upload, file);
    expect([again.status, again.json()]).toEqual([201, reply.json()]);
    const other = signManifest(manifestOf({ ...first, title: 'other' }), alice.publishing);
    expect((await publisher.commit(upload, other)).json()).toMatchObject({ code: 'conflict' });
    expect((await publisher.sendChunks(upload, [9])).json()).toMatchObject({ code: 'conflict' });
  });

  test('two publishers race for one version: one wins, the other is told by whom', async () => {
    const bob = await server.join('bob', 'publisher', [{ name: 'debian', access: 'publish' }]);
    await server.allow(bob, 'debian');
    const one = await publisher.publish(first);
    const parent = { version: 1, manifest: sha256(one.file) };
    const racers = await Promise.all(
      [alice, bob].map(async (person, index) => {
        const racer = new TestPublisher(server, person);
        const upload = await racer.openUpload('debian', 1);
        const plan = [1, 10 + index];
        await racer.sendChunks(upload, plan);
        await racer.sendDisk(upload, plan);
        const file = signManifest(manifestOf({ appliance: 'debian', version: 2, parent, plan }), person.publishing);
        return { racer, upload, file };
      }),
    );
    const replies = await Promise.all(racers.map(({ racer, upload, file }) => racer.commit(upload, file)));
    const winner = racers[replies.findIndex(({ status }) => status === 201)];
    const loser = replies.find(({ status }) => status !== 201);
    expect(loser?.status).toBe(409);
    expect(loser?.json()).toMatchObject({
      code: 'conflict',
      data: { version: 2, manifest: sha256(winner?.file ?? Buffer.alloc(0)) },
    });
    expect(await problems()).toEqual([]);
  });

  test('an upload that would not follow the head is refused at its beginning', async () => {
    await publisher.publish(first);
    const reply = await publisher.tryOpenUpload('debian', null);
    expect([reply.status, reply.json()['code']]).toEqual([409, 'conflict']);
  });
});

describe('a bad upload is refused and leaves nothing behind', () => {
  const openWith = async (seeds: number[], plan = PLAN): Promise<string> => {
    const upload = await publisher.openUpload('debian', null);
    await publisher.sendChunks(upload, seeds);
    await publisher.sendDisk(upload, plan);
    return upload;
  };
  const expectRefused = async (upload: string, file: Buffer, status: number, code: string): Promise<void> => {
    const reply = await publisher.commit(upload, file);
    expect([reply.status, reply.json()['code']], reply.body.toString()).toEqual([status, code]);
    expect(await server.repository.catalogue.versions.appliances()).toEqual([]);
    expect(await headOf()).toMatchObject({ heads: [] });
    expect(await problems()).toEqual([]);
  };

  test('an unsigned manifest', async () => {
    const upload = await openWith([1, 2, 3]);
    const envelope = JSON.parse(signManifest(manifestOf(first), alice.publishing).toString());
    await expectRefused(upload, Buffer.from(JSON.stringify({ ...envelope, signatures: [] })), 400, 'malformed');
  });
  test('a manifest with a signature that does not match', async () => {
    const upload = await openWith([1, 2, 3]);
    const envelope = JSON.parse(signManifest(manifestOf(first), alice.publishing).toString());
    const other = JSON.parse(signManifest(manifestOf({ ...first, title: 'x' }), alice.publishing).toString());
    await expectRefused(
      upload,
      Buffer.from(JSON.stringify({ ...envelope, signatures: other.signatures })),
      400,
      'bad-signature',
    );
  });
  test('a manifest signed by a key that no trust file names', async () => {
    await expectRefused(await openWith([1, 2, 3]), signManifest(manifestOf(first), newKey()), 403, 'untrusted');
  });
  test('a manifest signed by a key that has been revoked since the upload began', async () => {
    const upload = await openWith([1, 2, 3]);
    await server.changeTrust({ publishers: [] });
    await expectRefused(upload, signManifest(manifestOf(first), alice.publishing), 403, 'untrusted');
  });
  test('a manifest of another appliance', async () => {
    await server.allow(alice, '*');
    const file = signManifest(manifestOf({ ...first, appliance: 'other' }), alice.publishing);
    await expectRefused(await openWith([1, 2, 3]), file, 400, 'bad-request');
  });
  test('a manifest whose root is not what the server rebuilt', async () => {
    const file = signManifest(manifestOf({ ...first, plan: [1, 2, 0, 3, 3, 1] }), alice.publishing);
    await expectRefused(await openWith([1, 2, 3]), file, 400, 'digest-mismatch');
  });
  test('a version with a chunk that nobody sent', async () => {
    await expectRefused(
      await openWith([1, 2]),
      signManifest(manifestOf(first), alice.publishing),
      404,
      'block-missing',
    );
  });
  test('a first version that names a parent', async () => {
    const parent = { version: 1, manifest: sha256(Buffer.from('x')) };
    const file = signManifest(manifestOf({ ...first, version: 2, parent }), alice.publishing);
    await expectRefused(await openWith([1, 2, 3]), file, 409, 'conflict');
  });
  test('a machine description that is not allowed', async () => {
    const text = Buffer.from(
      JSON.stringify({ ...manifestOf(first), machine: { ...manifestOf(first).machine, cpus: 33 } }),
    );
    const { signEnvelope } = await import('@collective/shared');
    const file = signEnvelope({ payloadType: PAYLOAD_TYPES.version, payload: text, signers: [alice.publishing] });
    await expectRefused(await openWith([1, 2, 3]), file, 400, 'bad-machine');
  });
  test('a manifest over 256 KiB', async () => {
    await expectRefused(await openWith([1, 2, 3]), Buffer.alloc(262_145, 0x20), 413, 'too-large');
  });
  test('a block that is named with two sizes', async () => {
    const upload = await publisher.openUpload('debian', null);
    const long = Buffer.alloc(8_192, 7);
    await publisher.sendBatch(upload, encodeChunkBatch([{ digest: sha256(long), chunk: encodeChunk(long) }]));
    const map = mapOf([0, 0]);
    map.set(0, { kind: 'public', digest: sha256(long) });
    await server.request('uploadDisk', {
      token: alice.token,
      params: { upload, disk: 'system' },
      query: { since: 'none' },
      body: encodeChangedPairs(map.changesSince(undefined)),
    });
    const { root } = map.build();
    const change = (manifest: ReturnType<typeof manifestOf>): ReturnType<typeof manifestOf> => ({
      ...manifest,
      disks: manifest.disks.map((disk) => ({ ...disk, root })),
    });
    await expectRefused(
      upload,
      signManifest(manifestOf({ ...first, plan: [0, 0], change }), alice.publishing),
      400,
      'bad-request',
    );
  });

  test('a batch with one chunk that is not what its digest says: nothing of the batch is kept', async () => {
    const upload = await publisher.openUpload('debian', null);
    const good = chunkOf(1);
    const reply = await publisher.sendBatch(
      upload,
      encodeChunkBatch([good, { digest: chunkOf(2).digest, chunk: chunkOf(3).chunk }]),
    );
    expect([reply.status, reply.json()['code']]).toEqual([400, 'digest-mismatch']);
    expect(await publisher.lacking(upload, [good.digest])).toEqual([good.digest]);
    expect((await server.request('chunk', { params: { digest: good.digest } })).status).toBe(404);
    expect(await orphans()).toBe(0);
  });
  test('a batch that is cut off, and one with bytes after its end', async () => {
    const upload = await publisher.openUpload('debian', null);
    const batch = encodeChunkBatch([chunkOf(1)]);
    for (const bad of [batch.subarray(0, -1), Buffer.concat([batch, Buffer.alloc(1)]), Buffer.alloc(0)]) {
      expect((await publisher.sendBatch(upload, bad)).json()).toMatchObject({ code: 'malformed' });
    }
  });
  test('an oversized batch is refused before it is read', async () => {
    const upload = await publisher.openUpload('debian', null);
    const reply = await publisher.sendBatch(upload, Buffer.alloc(6_000_000));
    expect([reply.status, reply.json()['code']]).toEqual([413, 'too-large']);
  });
  test('more chunks than one upload may store', async () => {
    const small = await TestRepository.open({ limits: { uploadBytesMax: 200 } });
    const carol = await small.join('carol', 'publisher');
    const uploader = new TestPublisher(small, carol);
    const upload = await uploader.openUpload('debian', null);
    expect((await uploader.sendChunks(upload, [1, 2, 3])).json()).toMatchObject({ code: 'too-large' });
    await small.close();
  });
  test('a disk of more blocks than the server takes', async () => {
    const upload = await publisher.openUpload('debian', null);
    const header = Buffer.alloc(20);
    header.set([0x43, 0x50, 0x4c, 0x01]);
    header.writeUInt32LE(4_096, 4);
    header.writeBigUInt64LE(2n ** 40n, 8);
    const reply = await server.request('uploadDisk', {
      token: alice.token,
      params: { upload, disk: 'system' },
      query: { since: 'none' },
      body: header,
    });
    expect([reply.status, reply.json()['code']]).toEqual([413, 'too-large']);
  });
  test('a disk with blocks that inherit or are private', async () => {
    const upload = await publisher.openUpload('debian', null);
    const map = mapOf([0, 0]);
    map.set(0, { kind: 'private', digest: chunkOf(1).digest });
    const reply = await server.request('uploadDisk', {
      token: alice.token,
      params: { upload, disk: 'system' },
      query: { since: 'none' },
      body: encodeChangedPairs(map.changesSince(undefined)),
    });
    expect(reply.json()).toMatchObject({ code: 'malformed' });
  });
  test('a list of digests that is no multiple of 32 bytes', async () => {
    const upload = await publisher.openUpload('debian', null);
    const reply = await server.request('lackingChunks', {
      token: alice.token,
      params: { upload },
      body: Buffer.alloc(33),
    });
    expect(reply.json()).toMatchObject({ code: 'malformed' });
  });
});

describe('who may upload', () => {
  test('without a token nothing, and the body is not looked at', async () => {
    const reply = await server.request('uploadChunks', { params: { upload: '0'.repeat(32) }, body: Buffer.alloc(100) });
    expect([reply.status, reply.json()['code']]).toEqual([401, 'not-logged-in']);
  });
  test('somebody who may only use an appliance may not publish it', async () => {
    await publisher.publish(first);
    const user = await server.join('ursula', 'user', [{ name: 'debian', access: 'use' }]);
    const reply = await new TestPublisher(server, user).tryOpenUpload('debian', 1);
    expect([reply.status, reply.json()['code']]).toEqual([403, 'not-allowed']);
    expect((await new TestPublisher(server, user).tryOpenUpload('new', null)).json()).toMatchObject({
      code: 'not-allowed',
    });
  });
  test('a user role with publish access still may not publish', async () => {
    await publisher.publish(first);
    const user = await server.join('ursula', 'user', [{ name: 'debian', access: 'publish' }]);
    expect((await new TestPublisher(server, user).tryOpenUpload('debian', 1)).status).toBe(403);
  });
  test('a publisher of other appliances sees none of this one', async () => {
    await publisher.publish(first);
    const bob = await server.join('bob', 'publisher', [{ name: 'other', access: 'publish' }]);
    const reply = await new TestPublisher(server, bob).tryOpenUpload('debian', 1);
    expect([reply.status, reply.json()['code']]).toEqual([404, 'not-found']);
  });
  test("another publisher's session does not exist for me", async () => {
    const bob = await server.join('bob', 'publisher');
    const upload = await publisher.openUpload('debian', null);
    const reply = await new TestPublisher(server, bob).sendChunks(upload, [1]);
    expect([reply.status, reply.json()['code']]).toEqual([404, 'not-found']);
  });
  test('chunks of an appliance that I may not read count as lacking', async () => {
    await publisher.publish(first);
    const bob = await server.join('bob', 'publisher');
    const other = new TestPublisher(server, bob);
    const upload = await other.openUpload('other', null);
    expect(await other.lacking(upload, [chunkOf(1).digest])).toEqual([chunkOf(1).digest]);
    expect((await other.sendChunks(upload, [1])).json()).toEqual({ stored: 1, known: 0 });
    expect(await other.lacking(upload, [chunkOf(1).digest])).toEqual([]);
  });
  test('access that is taken away ends a session under way', async () => {
    await publisher.publish(first);
    const upload = await publisher.openUpload('debian', 1);
    await server.repository.catalogue.people.removeAccess('alice', 'debian');
    expect((await publisher.sendChunks(upload, [9])).status).toBe(404);
  });
  test('whoever posts a manifest that another publisher made does not become its maker', async () => {
    const mallory = await server.join('mallory', 'publisher');
    const hers = new TestPublisher(server, mallory);
    const upload = await hers.openUpload('debian', null);
    const { file } = await publisher.publish(first);
    expect((await hers.commit(upload, file)).status).toBe(201);
    expect(await server.repository.catalogue.people.accessOf('mallory')).toEqual([]);
    expect((await hers.tryOpenUpload('debian', 1)).status).toBe(404);
    expect(await server.repository.catalogue.people.accessOf('alice')).toEqual([{ name: 'debian', access: 'publish' }]);
  });
  test('nor does whoever commits it first', async () => {
    const mallory = await server.join('mallory', 'publisher');
    const hers = new TestPublisher(server, mallory);
    const upload = await hers.openUpload('debian', null);
    await hers.sendChunks(upload, PLAN);
    await hers.sendDisk(upload, PLAN);
    expect((await hers.commit(upload, signManifest(manifestOf(first), alice.publishing))).status).toBe(201);
    expect(await server.repository.catalogue.people.accessOf('mallory')).toEqual([]);
  });
  test('a session expires, and its end is prolonged by what it stores', async () => {
    const upload = await publisher.openUpload('debian', null);
    const { uploadIdleSeconds } = server.repository.limits;
    server.clock.advance(3_000);
    await publisher.sendChunks(upload, [1]);
    const { clock, repository } = server;
    const row = await repository.catalogue.uploads.upload(upload);
    expect(row?.expiresAt).toBe(clock.nowSeconds() + uploadIdleSeconds);
    server.clock.advance(uploadIdleSeconds);
    const token = await server.deviceLogin(alice.device);
    const reply = await server.request('upload', { token, params: { upload } });
    expect([reply.status, reply.json()['code']]).toEqual([404, 'not-found']);
  });
  test.each(['reserveChunks', 'keepChunks', 'setUploadDisk'] as const)(
    'a session that ends in the middle of what it is sent, before %s, is told that it is no more',
    async (name) => {
      const upload = await publisher.openUpload('debian', null);
      const { uploads } = server.repository.catalogue;
      const real: (...given: never[]) => Promise<void> = uploads[name];
      uploads[name] = async (...given: unknown[]) => {
        expect((await server.request('abandonUpload', { token: alice.token, params: { upload } })).status).toBe(200);
        await real(...(given as never[]));
      };
      const reply =
        name === 'setUploadDisk' ? await publisher.sendDisk(upload, [1]) : await publisher.sendChunks(upload, [1]);
      expect([reply.status, reply.json()['code']]).toEqual([404, 'not-found']);
      expect(await server.repository.catalogue.uploads.reservedChunks([chunkOf(1).digest])).toEqual(new Set());
    },
  );
  test('there is a limit to open sessions, and ending one makes room', async () => {
    const open: string[] = [];
    for (let count = 0; count < server.repository.limits.openUploadsPerAccountMax; count += 1) {
      open.push(await publisher.openUpload('debian', null));
    }
    expect((await publisher.tryOpenUpload('debian', null)).status).toBe(429);
    await server.request('abandonUpload', { token: alice.token, params: { upload: open[0] ?? '' } });
    expect((await publisher.tryOpenUpload('debian', null)).status).toBe(200);
  });
});

describe('withdrawing and deleting', () => {
  const publishTwo = async (): Promise<void> => {
    const one = await publisher.publish(first);
    const parent = { version: 1, manifest: sha256(one.file) };
    await publisher.publish({ appliance: 'debian', version: 2, parent, plan: [1, 5] });
  };
  const change = async (name: 'withdrawVersion' | 'deleteVersion', version: number): Promise<unknown[]> => {
    const reply = await server.request(name, { token: alice.token, params: { name: 'debian', version } });
    return [reply.status, reply.json()['code']];
  };
  const listed = async (): Promise<unknown> =>
    JSON.parse(
      (await server.request('versions', { token: alice.token, params: { name: 'debian' } })).body.toString(),
    ).map(({ version, withdrawn }: { version: number; withdrawn: boolean }) => [version, withdrawn]);

  test('a withdrawn version is listed as such, the highest cannot be withdrawn', async () => {
    await publishTwo();
    expect(await change('withdrawVersion', 2)).toEqual([409, 'conflict']);
    expect(await change('withdrawVersion', 1)).toEqual([200, undefined]);
    expect(await change('withdrawVersion', 1)).toEqual([200, undefined]);
    expect(await listed()).toEqual([
      [1, true],
      [2, false],
    ]);
    expect(await problems()).toEqual([]);
  });
  test('a deleted version is gone from the list, its manifest still proves the chain, the highest cannot be deleted', async () => {
    await publishTwo();
    expect(await change('deleteVersion', 2)).toEqual([409, 'conflict']);
    expect(await change('deleteVersion', 1)).toEqual([200, undefined]);
    expect(await change('deleteVersion', 1)).toEqual([404, 'not-found']);
    expect(await listed()).toEqual([[2, false]]);
    const params = { name: 'debian', version: 1 };
    expect((await server.request('versionManifest', { token: alice.token, params })).status).toBe(200);
    expect(
      (await server.request('diskMap', { token: alice.token, params: { ...params, disk: 'system' } })).status,
    ).toBe(404);
    expect(await problems()).toEqual([]);
  });
  test('somebody who may only use the appliance can do neither', async () => {
    await publishTwo();
    const user = await server.join('ursula', 'user', [{ name: 'debian', access: 'use' }]);
    for (const name of ['withdrawVersion', 'deleteVersion'] as const) {
      expect((await server.request(name, { token: user.token, params: { name: 'debian', version: 1 } })).status).toBe(
        403,
      );
    }
  });
});
