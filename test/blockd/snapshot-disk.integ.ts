/**
 * A user disk from a person's snapshots, in a real block daemon, with a real repository server: its blocks are public, inherited, zero and private;
 * what comes over the line may be wrong; and a layer that was written gives way to the snapshot that was made of it.
 */
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  decodeSnapshotObject,
  encodePrivateChunk,
  encodeSnapshotObject,
  hasCode,
  privateBlockDigest,
  type Digest,
} from '@collective/shared';
import {
  blockOf,
  privateChunkOf,
  snapshotDataName,
  SUBSCRIPTION,
  type StoredRecord,
  type UserPlan,
} from '@collective/repository-server';
import { describe, expect, it } from 'vitest';
import { filesWith } from '../support/files-with.js';
import { askedAgain, nbdsh } from './blockd-process.js';
import {
  BLOCK,
  BLOCK_KEYS,
  contentOf,
  DISK_BYTES,
  DISK_KEY,
  INITIAL_MAP,
  keysOfOtherEpoch,
  planWith,
  SnapshotHome,
} from './snapshot-home.js';

/** Inherited ones of the initial disk, of which 128 to 255 are zero; private and public ones; one that was trimmed. */
const PLAN = planWith({ 1: 50, 2: 51, 3: 'p1003', 130: 52, 131: 53, 140: 'p2000', 5: 0, 299: 54 });
const NEXT: Readonly<Record<number, number>> = { 0: 60, 2: 61, 131: 0, 200: 62, 298: 63 };

/** What cannot be had is refused soon; what can be had is waited for, however busy the machine is. */
const [SOON_MS, LONG_MS] = [300, 60_000];

const write = async (home: SnapshotHome, blocks: Readonly<Record<number, number>>): Promise<void> => {
  const commands: string[] = [];
  for (const [block, seed] of Object.entries(blocks)) {
    const file = path.join(home.home, `block-${seed}`);
    await writeFile(file, blockOf(seed));
    commands.push(
      seed === 0
        ? `h.trim(${BLOCK}, ${Number(block) * BLOCK})`
        : `h.pwrite(open("${file}", "rb").read(), ${Number(block) * BLOCK})`,
    );
  }
  const uri = `nbd+unix:///user?socket=${path.join(home.home, 'disk.sock')}`;
  expect(await nbdsh(uri, ...commands)).toMatchObject({ code: 0 });
  for (const seed of Object.values(blocks)) await rm(path.join(home.home, `block-${seed}`), { force: true });
};

const merged = (plan: UserPlan, blocks: Readonly<Record<number, UserPlan[number]>>): UserPlan =>
  plan.map((entry, index) => blocks[index] ?? entry);

describe('a snapshot', () => {
  it('is read cold and from the caches: the server is asked once for each block, and not at all afterwards', async () => {
    await using home = await SnapshotHome.open();
    const { base } = await home.save(PLAN);
    await home.attachSnapshot(base);
    expect((await home.read()).equals(contentOf(PLAN))).toBe(true);
    const cold = home.dataRequests;
    const again = askedAgain(await home.client.request('status', {}));
    expect(cold.length).toBeLessThanOrEqual(new Set(cold).size + again);
    expect(new Set(cold.filter((request) => request.endsWith('bytes=-65536'))).size).toBe(1);
    await home.serverAway();
    expect((await home.read()).equals(contentOf(PLAN))).toBe(true);
    const status = await home.client.request('status', {});
    expect(status.private).toMatchObject({ cache: { filled: 5, unfilled: 0, damaged: 0 } });
    expect(status.disks).toMatchObject([{ disk: 'user', waiting: [] }]);
    expect(JSON.stringify(status)).not.toContain(BLOCK_KEYS[0]?.chunkKey);

    // Of the blocks of the person none is found in any file of the home.
    await home.detach();
    expect(await filesWith(home.home, blockOf(50).toString('latin1', 0, 64))).toEqual([]);
    // The table is written 0.2 s after a fill at the latest; after a clean stop all of it is there.
    home.process.kill('SIGTERM');
    await home.process.exit();
    await home.restart();
    await home.attachSnapshot(base);
    expect((await home.read()).equals(contentOf(PLAN))).toBe(true);
    expect((await home.client.request('status', {})).private?.cache.filled).toBe(0);
  });

  it('over several objects: the blocks of each are found, the newest asked first', async () => {
    await using home = await SnapshotHome.open();
    await home.save(PLAN);
    const plan = merged(PLAN, { 2: 70, 10: 71 });
    const { base } = await home.save(plan);
    await home.attachSnapshot(base);
    expect((await home.readPart(2 * BLOCK, BLOCK)).equals(blockOf(70))).toBe(true);
    expect((await home.read()).equals(contentOf(plan))).toBe(true);
  });

  it('with the cache of another person, which is made anew; and without keys it is refused', async () => {
    await using home = await SnapshotHome.open();
    const { base } = await home.save(PLAN);
    await home.attachSnapshot(base);
    await home.read();
    await home.detach();
    home.process.kill('SIGTERM');
    await home.process.exit();
    await home.restart();
    const other = Buffer.alloc(64).fill(1, 0, 32).toString('base64url');
    await home.attachSnapshot(base, { diskKey: other });
    expect((await home.read()).equals(contentOf(PLAN))).toBe(true);
    expect((await home.client.request('status', {})).private).toMatchObject({ cache: { filled: 5, damaged: 0 } });
    await home.restart();
    const attach = { session: 's', disk: 'user', source: home.source(base), waitMs: 60_000 } as const;
    const listen = { path: path.join(home.home, 'disk.sock') };
    for (const keys of [{ diskKey: DISK_KEY }, { diskKey: DISK_KEY, blockKeys: [] }, { blockKeys: BLOCK_KEYS }])
      await expect(home.client.request('attach', { ...attach, ...keys, listen })).rejects.toMatchObject({
        ...{ code: 'wrong-key', data: { reason: 'missing' } },
      });
  });

  it('whose base file, or a map of it, is another one is refused', async () => {
    await using home = await SnapshotHome.open();
    const { base } = await home.save(PLAN);
    const [map] = (await readdir(path.join(home.overlay, 'maps'))).filter((name) => name !== INITIAL_MAP);
    const file = path.join(home.overlay, 'maps', map ?? '');
    const bytes = await readFile(file);
    await writeFile(file, Buffer.from(bytes).fill(1, bytes.length - 4));
    await expect(home.attachSnapshot(base)).rejects.toMatchObject({ code: 'digest-mismatch' });
    await writeFile(file, bytes);
    await expect(home.attachSnapshot('0'.repeat(64) as Digest)).rejects.toMatchObject({ code: 'not-found' });
    await home.attachSnapshot(base);
  });
});

describe('what is wrong on the line is not served, and the machine waits', () => {
  const BAD = 1;
  /** Block 1 of PLAN has a chunk that is wrong; the rest of the disk is read. */
  const expectWaits = async (home: SnapshotHome, base: Digest): Promise<void> => {
    await home.attachSnapshot(base, { waitMs: SOON_MS });
    await expect(home.readPart(BAD * BLOCK, BLOCK)).rejects.toSatisfy((error) => hasCode(error, 'local-io'));
    expect(await home.waitForEvent('block-unavailable')).toMatchObject({ disk: 'user', blockIndex: BAD });
    await home.setWait(LONG_MS);
    const after = (BAD + 2) * BLOCK;
    expect((await home.readPart(after, 200 * BLOCK)).equals(contentOf(PLAN).subarray(after, after + 200 * BLOCK))).toBe(
      true,
    );
  };
  const saveWith = async (home: SnapshotHome, change: (records: StoredRecord[]) => StoredRecord[]): Promise<Digest> => {
    const made = await home.world.backup.save({ plan: PLAN, records: change });
    return await home.writeBase(made, PLAN);
  };
  const good = privateChunkOf(50);

  it('two chunks of the person that were exchanged', async () => {
    await using home = await SnapshotHome.open();
    const other = privateChunkOf(51);
    const base = await saveWith(home, (records) =>
      records.map((record) => (record.digest === good.digest ? { ...record, chunk: other.chunk } : record)),
    );
    await expectWaits(home, base);
    expect((await home.client.request('status', {})).faults).toMatchObject({ 'net-wrong-bytes': expect.any(Number) });
  });

  it.each([
    ['a chunk under another key of the same epoch', blockOf(50), Buffer.alloc(32, 9)],
    ['a chunk of another block', blockOf(51), Buffer.from(BLOCK_KEYS[0]?.chunkKey ?? '', 'base64url')],
  ])('%s', async (_name, plain, key) => {
    await using home = await SnapshotHome.open();
    const chunk = encodePrivateChunk(plain, { key, epoch: 1, digest: good.digest });
    const base = await saveWith(home, (records) =>
      records.map((record) => (record.digest === good.digest ? { ...record, chunk } : record)),
    );
    await expectWaits(home, base);
    expect((await home.client.request('status', {})).private?.fetch.corrupt).toBeGreaterThan(0);
  });

  it('a block of an epoch whose keys come later: it is read as soon as they are there', async () => {
    await using home = await SnapshotHome.open();
    const later = keysOfOtherEpoch(2, 8);
    const nameKey = Buffer.from(later.blockNameKey, 'base64url');
    const digest = privateBlockDigest(nameKey, blockOf(50));
    const chunk = encodePrivateChunk(blockOf(50), {
      ...{ key: Buffer.from(later.chunkKey, 'base64url'), epoch: 2, digest },
    });
    await home.save(PLAN);
    // The object of the next snapshot holds the block under its other name.
    const made = await home.world.backup.save({
      plan: PLAN,
      records: () => [{ digest, chunk }],
      change: (manifest) => ({ ...manifest, epoch: 2 }),
    });
    const base = await home.writeBase(made, PLAN, {
      change: (map) => {
        map.set(BAD, { kind: 'private', digest });
        return map;
      },
    });
    await expectWaits(home, base);
    const [waiting] = (await home.client.request('status', {})).disks[0]?.waiting ?? [];
    expect(waiting).toMatchObject({ blockIndex: BAD, isUnavailable: true });
    expect(waiting?.reason).toContain('epoch 2');
    await home.client.request('keys', { blockKeys: [later] });
    expect(await home.waitForEvent('block-arrived')).toMatchObject({ blockIndex: BAD, stillUnavailable: 0 });
    expect((await home.readPart(BAD * BLOCK, BLOCK)).equals(blockOf(50))).toBe(true);
  });

  it('a chunk that the server cuts or garbles on the way: it is asked again', async () => {
    await using home = await SnapshotHome.open();
    const { base } = await home.save(PLAN);
    let left = 3;
    home.answer = (request, response) => {
      const range = request.headers.range ?? '';
      if (!(request.url ?? '').endsWith('/data') || range === 'bytes=-65536' || (left -= 1) < 0) return false;
      const [first, last] = range.slice(6).split('-').map(Number);
      const length = (last ?? 0) - (first ?? 0) + 1;
      response.writeHead(206, { 'content-range': `${range.replace('=', ' ')}/1000000` });
      response.end(Buffer.alloc(left % 2 === 0 ? length : length - 1, 7));
      return true;
    };
    await home.attachSnapshot(base, { waitMs: LONG_MS });
    expect((await home.read()).equals(contentOf(PLAN))).toBe(true);
    expect(left).toBeLessThan(0);
  });
});

describe('the repository', () => {
  it('rewrites an object while it is read: its index is read again, and every block is found', async () => {
    await using home = await SnapshotHome.open();
    const { base, made } = await home.save(PLAN);
    await home.attachSnapshot(base);
    expect((await home.readPart(BLOCK, BLOCK)).equals(blockOf(50))).toBe(true);
    // As retention would: the same chunks in another order and with one less (a map page).
    const name = snapshotDataName({ account: home.world.person.account, subscription: SUBSCRIPTION }, 1);
    const { blobStore } = home.world.server.repository;
    const records = decodeSnapshotObject(made.data).slice(1).reverse();
    await blobStore.replace(name, encodeSnapshotObject(records));
    expect((await home.read()).equals(contentOf(PLAN))).toBe(true);
    const indexes = home.dataRequests.filter((request) => request.endsWith('bytes=-65536'));
    expect(indexes).toHaveLength(2);
  });

  it('is away: the machine is paused, told why, and goes on by itself when it is back', async () => {
    await using home = await SnapshotHome.open();
    const { base } = await home.save(PLAN);
    await home.serverAway();
    await home.attachSnapshot(base, { waitMs: SOON_MS });
    await expect(home.readPart(BLOCK, BLOCK)).rejects.toSatisfy((error) => hasCode(error, 'local-io'));
    await home.waitForEvent('block-unavailable');
    await home.setWait(LONG_MS);
    await home.serverBack();
    expect(await home.waitForEvent('block-arrived')).toMatchObject({ blockIndex: 1, stillUnavailable: 0 });
    expect((await home.read()).equals(contentOf(PLAN))).toBe(true);
  });

  it('refuses the token: it is said, and a new one helps', async () => {
    await using home = await SnapshotHome.open();
    const { base } = await home.save(PLAN);
    await home.tellRepository('A'.repeat(43));
    await home.attachSnapshot(base, { waitMs: SOON_MS });
    await expect(home.readPart(BLOCK, BLOCK)).rejects.toSatisfy((error) => hasCode(error, 'local-io'));
    await home.waitForEvent('token-refused');
    await home.setWait(LONG_MS);
    await home.tellRepository();
    await home.waitForEvent('block-arrived');
    expect((await home.read()).equals(contentOf(PLAN))).toBe(true);
  });
});

describe('a disk over a snapshot', () => {
  const sealed = async (home: SnapshotHome): Promise<string> =>
    (await home.client.request('seal', { session: 's', disk: 'user' })).layer;

  it('is written, sealed, viewed, committed and rebased, and reads the same bytes all the time, without a download of what was written', async () => {
    await using home = await SnapshotHome.open();
    const { base } = await home.save(PLAN);
    await home.attach({ source: home.source(base) });
    expect(await home.overlayBase()).toBe(base);
    await write(home, NEXT);
    const layer = await sealed(home);
    await write(home, { 4: 80 }); // goes on meanwhile
    const plan = merged(PLAN, NEXT);
    const now = contentOf(merged(plan, { 4: 80 }));

    const view = { session: 's', disk: 'user', layer } as const;
    expect((await home.client.request('status', {})).disks).toMatchObject([{ base, sealedLayers: [layer] }]);
    await home.client.request('view-open', { ...view, listen: { path: path.join(home.home, 'view.sock') } });
    expect((await home.read('view.sock')).equals(contentOf(plan))).toBe(true);
    await expect(
      home.client.request('view-open', { ...view, listen: { path: path.join(home.home, 'view.sock') } }),
    ).rejects.toMatchObject({ code: 'exists' });
    const list = path.join(home.home, 'changed');
    const changed = await home.client.request('changed-blocks', { ...view, blockBytes: BLOCK, path: list });
    const numbers = new Uint32Array(new Uint8Array(await readFile(list)).buffer);
    expect([...numbers]).toEqual([0, 2, 131, 200, 298]);
    expect(changed).toEqual({ blocks: 5 });

    const made = await home.world.backup.save({ plan });
    const committed = await home.writeBase(made, plan);
    await home.client.request('rebase', { ...view, base: committed });
    expect(await home.overlayBase()).toBe(committed);
    expect(await readdir(path.join(home.overlay, 'layers'))).toHaveLength(1);
    await expect(home.read('view.sock')).rejects.toThrow(); // it has ended
    expect(await home.client.request('view-close', view)).toEqual({ closed: true });
    expect(await home.client.request('view-close', view)).toEqual({ closed: false });
    await home.serverAway();
    // Block 1 to 299 of the first snapshot were read through the view; what was written is in the cache though nobody read it.
    expect((await home.read()).equals(now)).toBe(true);

    await home.restart(); // kill -9; the source is that of the start
    await home.serverBack();
    await home.attach({ source: home.source(base) });
    expect((await home.read()).equals(now)).toBe(true);
    expect((await home.client.request('status', {})).disks).toMatchObject([{ base: committed, sealedLayers: [] }]);
  });

  it('of an appliance’s initial disk becomes the first snapshot, and stays so for a daemon that is told of the initial disk only', async () => {
    await using home = await SnapshotHome.open();
    await home.writeBase({ manifest: { number: 1, objects: [] } }, planWith({}));
    const initial = {
      appliance: 'debian',
      version: 1,
      root: home.world.base,
      diskBytes: DISK_BYTES,
      blockBytes: BLOCK,
    };
    const source = { kind: 'published' as const, ...initial, map: path.join(home.overlay, 'maps', INITIAL_MAP) };
    await home.attach({ source });
    await write(home, NEXT);
    expect(await home.overlayBase()).toBeNull();
    const layer = await sealed(home);
    const plan = merged(planWith({}), NEXT);
    const { base } = await home.save(plan);
    await home.client.request('rebase', { session: 's', disk: 'user', layer, base });
    expect((await home.read()).equals(contentOf(plan))).toBe(true);
    await home.restart();
    await home.attach({ source });
    expect(await home.overlayBase()).toBe(base);
    expect((await home.read()).equals(contentOf(plan))).toBe(true);
  });

  it('for which a machine is paused in an outage is rebased all the same, and the machine is told to try again', async () => {
    await using home = await SnapshotHome.open();
    const { base } = await home.save(PLAN);
    await home.attach({ source: home.source(base), waitMs: LONG_MS });
    await write(home, NEXT);
    await home.setWait(SOON_MS);
    await home.serverAway();
    await expect(home.readPart(BLOCK, BLOCK)).rejects.toSatisfy((error) => hasCode(error, 'local-io'));
    await home.waitForEvent('block-unavailable');
    const layer = await sealed(home);
    const plan = merged(PLAN, NEXT);
    const next = (await home.save(plan)).base; // not through the line that is down
    await home.client.request('rebase', { session: 's', disk: 'user', layer, base: next });
    expect(await home.waitForEvent('block-arrived')).toMatchObject({ blockIndex: 1, stillUnavailable: 0 });
    home.events.length = 0;
    await expect(home.readPart(BLOCK, BLOCK)).rejects.toSatisfy((error) => hasCode(error, 'local-io'));
    await home.waitForEvent('block-unavailable');
    await home.setWait(LONG_MS);
    await home.serverBack();
    expect(await home.waitForEvent('block-arrived')).toMatchObject({ blockIndex: 1, stillUnavailable: 0 });
    expect((await home.read()).equals(contentOf(plan))).toBe(true);
  });

  it('refuses a base that is not what was written: a block, a changed one too few, another state; and loses nothing', async () => {
    await using home = await SnapshotHome.open();
    const { base } = await home.save(PLAN);
    await home.attach({ source: home.source(base) });
    await write(home, NEXT);
    const layer = await sealed(home);
    const plan = merged(PLAN, NEXT);
    for (const wrong of [PLAN, merged(plan, { 200: 99 }), merged(plan, { 131: 53 }), merged(plan, { 7: 0 })]) {
      const other = await home.save(wrong);
      await expect(
        home.client.request('rebase', { session: 's', disk: 'user', layer, base: other.base }),
      ).rejects.toMatchObject({ code: 'digest-mismatch' });
    }
    await expect(
      home.client.request('rebase', { session: 's', disk: 'user', layer, base: 'f'.repeat(64) }),
    ).rejects.toMatchObject({ code: 'not-found' });
    expect(await home.overlayBase()).toBe(base);
    expect((await home.read()).equals(contentOf(plan))).toBe(true);
    const right = await home.save(plan);
    await home.client.request('rebase', { session: 's', disk: 'user', layer, base: right.base });
    expect((await home.read()).equals(contentOf(plan))).toBe(true);
  });

  it('reads the same after a kill -9 of the daemon at any moment of a rebase', async () => {
    await using home = await SnapshotHome.open();
    let plan = PLAN;
    let { base } = await home.save(plan);
    const first = base;
    await home.attach({ source: home.source(first) });
    const outcomes = new Set<boolean>();
    for (let round = 0; round < 8; round += 1) {
      const blocks = Object.fromEntries(Array.from({ length: 20 }, (_, at) => [at * 14, 1_000 * (round + 3) + at]));
      await write(home, blocks);
      const layer = await sealed(home);
      plan = merged(plan, blocks);
      const next = (await home.save(plan)).base;
      // From at once to after the end: each round a little later, by what can be seen of it.
      const rebase = home.client.request('rebase', { session: 's', disk: 'user', layer, base: next });
      const isDone = rebase.then(
        () => true,
        () => false,
      );
      if (round % 2 === 1) await Promise.race([isDone, home.client.request('status', {})]);
      if (round >= 6) await isDone;
      await home.restart();
      const named = await home.overlayBase();
      expect([base, next]).toContain(named);
      outcomes.add(named === next);
      await home.attach({ source: home.source(first) });
      expect((await home.read()).equals(contentOf(plan))).toBe(true);
      if (named !== next) {
        await home.client.request('rebase', { session: 's', disk: 'user', layer, base: next });
        expect((await home.read()).equals(contentOf(plan))).toBe(true);
      }
      base = next;
    }
    expect(outcomes).toEqual(new Set([true, false]));
  });
});
