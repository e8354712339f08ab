/**
 * A device's disk lies on a snapshot, and the repository does not have it any more: what can still be had is found, the rest is said in
 * blocks and bytes, and nothing is dropped before the person says so.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CollectiveError } from '@collective/shared';
import { BLOCK_BYTES, checkRepository, blockOf, snapshotDataName } from '@collective/repository-server';
import { catchUp, continueHere, continueWithout, keepBoth, undo } from '@collective/transceiver';
import { BackupLab, DISK, Killed, ManualClock, type Transceiver } from './backup-lab.js';

const HALF = BLOCK_BYTES / 2;
let lab: BackupLab;
let a: Transceiver;
let subscription: string;

beforeEach(async () => {
  lab = await BackupLab.open();
  a = await lab.transceiver();
  await a.create();
  for (const block of [1, 2, 5]) a.write(block, 70_000 + block);
  await a.save();
  ({ subscription } = a.backup.state);
});
afterEach(async () => lab[Symbol.asyncDispose]());

/** The administrator has lost the object of that snapshot, and the cache here is empty. */
const lose = async (number: number): Promise<void> => {
  const { account } = lab.subscriber.person;
  await lab.subscriber.server.repository.blobStore.remove(snapshotDataName({ account, subscription }, number));
  a.disks.chill(DISK);
};
/** The block's first half: for the other one, what lies below is needed. */
const writeHalf = (block: number, seed: number): void =>
  a.disks.write(DISK, block * BLOCK_BYTES, blockOf(seed).subarray(0, HALF));
const blockAt = (block: number): Buffer => a.content.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
const lost = (blocks: number) => ({
  code: 'base-lost',
  message: expect.stringContaining('choose with collective continue') as unknown,
  data: { blocks, bytes: blocks * BLOCK_BYTES },
});
const expectSaved = async (of: Transceiver): Promise<void> => {
  const { head, subscription: id } = of.backup.state;
  expect((await lab.snapshotBytes(id, head?.number ?? 0)).equals(of.content)).toBe(true);
};

describe('nobody else has what is lost', () => {
  // Seen in review: `block-unavailable`, as in an outage, for ever.
  test('it is said how much, and nothing changes until the person chooses', async () => {
    await lose(1);
    writeHalf(1, 71_001);
    const before = a.content;
    for (let times = 0; times < 2; times += 1) await expect(a.save()).rejects.toMatchObject(lost(3));
    await expect(continueWithout(a.backup, { isDiscarded: false })).rejects.toMatchObject(lost(3));
    await a.restart();
    await expect(a.drain()).rejects.toMatchObject(lost(3));
    expect(a.content.equals(before)).toBe(true);
    expect(a.backup.state).toMatchObject({ subscription, head: { number: 1 }, mustResend: false, apart: null });
    expect(a.backup.state.pending?.kind).toBe('sealed');
  });

  test('what does not need it is saved as ever', async () => {
    a.write(9, 71_009);
    await a.save();
    await lose(1);
    a.write(8, 71_008);
    expect(await a.save()).toBe('idle');
    expect(a.backup.state.head?.number).toBe(3);
  });

  test.each(['', 'base-put'])('the person goes on without it (killed at: %s)', async (step) => {
    await lose(1);
    writeHalf(1, 71_001);
    a.write(2, 71_002);
    await expect(a.save()).rejects.toMatchObject(lost(3));
    a.onStep = (at) => {
      if (at === step) throw new Killed(at);
    };
    // What was written as a whole needs nothing below it.
    await expect(continueWithout(a.backup, { isDiscarded: false })).rejects.toMatchObject(lost(2));
    const going = continueWithout(a.backup, { isDiscarded: true });
    if (step === '') await going;
    else {
      await expect(going).rejects.toThrow(Killed);
      await a.restart();
    }
    expect(await a.drain()).toBe('idle');
    expect(blockAt(1).equals(Buffer.concat([blockOf(71_001).subarray(0, HALF), Buffer.alloc(HALF)]))).toBe(true);
    expect(blockAt(2).equals(blockOf(71_002))).toBe(true);
    expect(blockAt(5).equals(Buffer.alloc(BLOCK_BYTES))).toBe(true);
    await expectSaved(a);
    const rows = await lab.subscriber.server.repository.catalogue.subscriptions.snapshots(
      { account: lab.subscriber.person.account, subscription },
      ['kept'],
    );
    expect(rows.map(({ number, pinned }) => [number, pinned])).toEqual([
      [1, true],
      [2, false],
    ]);
    a.write(3, 71_003);
    await a.save();
    await expectSaved(a);
    await expect(continueWithout(a.backup, { isDiscarded: true })).rejects.toMatchObject({ code: 'bad-request' });
  });

  test('what is here becomes a subscription of its own, and the other one is what the repository has', async () => {
    a.write(9, 71_009);
    await a.save();
    await lose(1);
    writeHalf(1, 71_001);
    const before = a.content;
    await expect(a.save()).rejects.toMatchObject(lost(3));
    const { here } = await keepBoth(a.backup);
    expect(a.backup.state).toMatchObject({ subscription: here, head: null, mustResend: true });
    await expect(a.drain()).rejects.toMatchObject(lost(3));
    expect(a.content.equals(before)).toBe(true);
    expect((await lab.head(subscription))?.number).toBe(2);
    // It is nothing but this: no third one comes of it.
    await expect(keepBoth(a.backup)).rejects.toMatchObject({ code: 'bad-request' });
    await continueWithout(a.backup, { isDiscarded: true });
    expect(await a.drain()).toBe('idle');
    await expectSaved(a);
  });

  test('what the cache here has is not given up, though it takes longer than a read waits', async () => {
    await lose(1);
    writeHalf(1, 71_001);
    const before = a.content;
    const asked = new Set<string>();
    lab.fetchBlock = async (digest) => {
      if (asked.has(digest)) return Buffer.alloc(BLOCK_BYTES);
      asked.add(digest);
      throw new Error('not yet');
    };
    await continueWithout(a.backup, { isDiscarded: true });
    expect(asked.size).toBe(3);
    expect(a.content.equals(before)).toBe(true);
    // All of it is sent again, as the object is gone.
    expect(await a.drain()).toBe('idle');
    await expectSaved(a);
  });

  // Seen in review: the repository looks only at what changed, took the next one without them, and the cache was the last to have them.
  test('what only the cache here has is sent again, also where the repository would do without', async () => {
    a.write(9, 71_009);
    await a.save();
    await lose(1);
    lab.fetchBlock = async () => Promise.resolve(Buffer.alloc(BLOCK_BYTES));
    await continueWithout(a.backup, { isDiscarded: false });
    expect(await a.drain()).toBe('idle');
    await expectSaved(a);
  });

  // Seen in review: nobody had asked the cache, and what it had became zeroes.
  test('nor where so many seals wait that there is no place for another', async () => {
    await lose(1);
    const { writer } = a.backup.state;
    if (writer === null) throw new Error('nobody has written');
    const layers = [{ disk: DISK, layer: '0'.repeat(32) }];
    const seal = { reason: 'request' as const, createdAt: 1, layers, writtenBy: writer, mustPin: false };
    await a.backup.alone(async ({ file }) =>
      file.update((state) => ({
        ...state,
        pending: { kind: 'sealed', ...seal },
        next: Array.from({ length: 48 }, () => seal),
      })),
    );
    const before = a.content;
    lab.fetchBlock = async () => Promise.resolve(Buffer.alloc(BLOCK_BYTES));
    await continueWithout(a.backup, { isDiscarded: true });
    expect(a.content.equals(before)).toBe(true);
  });

  // Seen in review: what was committed named what had become zero; taking it over was refused for ever, and nothing saved any more.
  test('what was committed, and not taken over before the kill, is taken over first', async () => {
    a.write(9, 71_009);
    a.onStep = (at) => {
      if (at === 'commit-noted') throw new Killed(at);
    };
    await expect(a.save()).rejects.toThrow(Killed);
    await a.restart();
    await lose(1);
    await continueWithout(a.backup, { isDiscarded: true });
    expect(await a.drain()).toBe('idle');
    expect(blockAt(9).equals(blockOf(71_009))).toBe(true);
    await expectSaved(a);
  });

  test('an undo that is on its way is not dropped for it', async () => {
    const first = blockAt(9);
    a.write(9, 71_009);
    await a.save();
    a.client.beforeCall = (name) => {
      if (name === 'commitSnapshot') throw new CollectiveError('repository-unreachable', 'as the test wants it');
    };
    await expect(undo(a.backup, a.restoreParts, 1)).rejects.toMatchObject({ code: 'repository-unreachable' });
    a.client.beforeCall = () => undefined;
    await lose(1);
    await continueWithout(a.backup, { isDiscarded: true });
    expect(await a.drain()).toBe('idle');
    expect(blockAt(9).equals(first)).toBe(true);
    expect(blockAt(5).equals(Buffer.alloc(BLOCK_BYTES))).toBe(true);
    await expectSaved(a);
  });

  test('the object is there again: it goes on by itself', async () => {
    const { blobStore } = lab.subscriber.server.repository;
    const { account } = lab.subscriber.person;
    const name = snapshotDataName({ account, subscription }, 1);
    const bytes = await blobStore.read(name);
    await lose(1);
    writeHalf(1, 71_001);
    await expect(a.save()).rejects.toMatchObject(lost(3));
    await blobStore.create(name, bytes ?? Buffer.alloc(0));
    expect(await a.drain()).toBe('idle');
    await expectSaved(a);
  });
});

describe('nothing is lost', () => {
  test('there is nothing to choose', async () => {
    a.write(3, 71_003);
    await expect(continueWithout(a.backup, { isDiscarded: true })).rejects.toMatchObject({ code: 'bad-request' });
    await expect(keepBoth(a.backup)).rejects.toMatchObject({ code: 'bad-request' });
    expect(await a.save()).toBe('idle');
    await expectSaved(a);
  });

  test('an outage is one: the indexes are not asked for again and again', async () => {
    const clock = new ManualClock();
    a.clock = clock;
    await a.restart();
    a.disks.chill(DISK);
    lab.fetchBlock = async () => Promise.reject(new Error('the line is slow'));
    writeHalf(1, 71_001);
    let asked = 0;
    a.client.beforeCall = (name) => {
      if (name !== 'snapshotData') return;
      asked += 1;
      if (asked === 1) throw new CollectiveError('repository-unreachable', 'as the test wants it');
    };
    // Nobody can tell; nothing is lost; it was looked at just now; some time has passed.
    for (const [ms, times] of [
      [0, 1],
      [0, 2],
      [60_000, 2],
      [600_000, 3],
    ] as const) {
      clock.advance(ms);
      await expect(a.save()).rejects.toMatchObject({ code: 'block-unavailable' });
      expect(asked).toBe(times);
    }
  });
});

describe('another snapshot has what is lost', () => {
  const listing = async (listedMax: number): Promise<void> => {
    a.objectLimits = { listedMax, left: 0, lookEvery: 1_000 };
    await a.restart();
  };

  // Seen in review: the repository took a snapshot that listed what was gone, and no other device could read it.
  test('the next one lists nothing that is gone', async () => {
    for (const block of [3, 4]) {
      a.write(block, 71_000 + block);
      await a.save();
      // The third one sends again what the others have.
      await listing(1);
    }
    expect((await lab.manifest(subscription, 3)).objects).toEqual([3]);
    await listing(256);
    a.write(4, 71_014);
    await a.save();
    await lose(3);
    // The block path passes over an object that is gone.
    const fetch = lab.fetchBlock.bind(lab);
    lab.fetchBlock = async (digest, file) =>
      fetch(digest, { ...file, objects: file.objects.filter((number) => number !== 3) });
    writeHalf(1, 71_001);
    const before = a.content;
    expect(await a.save()).toBe('idle');
    expect(a.steps).toContain('base-put');
    expect(a.content.equals(before)).toBe(true);
    await expectSaved(a);
  });

  // Seen in review: what lay in an object whose own snapshot was thinned, and which the newest does not list, was given up.
  test('which lists the object of one that is thinned', async () => {
    const before = a.content;
    const b = await lab.transceiver();
    await a.backup.leases.release();
    await b.restore(subscription);
    const write = async (block: number, listedMax: number): Promise<void> => {
      b.objectLimits = { listedMax, left: 0, lookEvery: 1_000 };
      await b.restart();
      b.write(block, 72_000 + block);
      await b.save();
    };
    await write(3, 256);
    await write(4, 1);
    for (const block of [1, 2, 5]) await write(block, 256);
    await write(6, 1);
    const listed = [3, 4, 7].map(async (number) => (await lab.manifest(subscription, number)).objects);
    expect(await Promise.all(listed)).toEqual([[3], [3, 4], [7]]);
    const { subscriptions } = lab.subscriber.server.repository.catalogue;
    const row = await subscriptions.snapshot({ account: lab.subscriber.person.account, subscription }, 3);
    if (row === undefined) throw new Error('there is no snapshot 3');
    await subscriptions.recordSnapshot({ ...row, state: 'deleted' });
    await lose(1);
    await continueWithout(a.backup, { isDiscarded: true });
    expect(a.content.equals(before)).toBe(true);
    expect(a.steps).toContain('base-put');
  });
});

describe('another device went on, and retention has taken the snapshot that the disk here lies on', () => {
  let b: Transceiver;
  /** Everything of snapshot 1 that the head still has is in the object of snapshot 3. */
  beforeEach(async () => {
    b = await lab.transceiver();
    await a.backup.leases.release();
    await b.restore(subscription);
    b.objectLimits = { listedMax: 1, left: 0, lookEvery: 1 };
    await b.restart();
    for (const block of [3, 4]) {
      b.write(block, 72_000 + block);
      await b.save();
    }
    expect((await lab.manifest(subscription, 3)).objects).toEqual([3]);
    await b.backup.leases.release();
    for (const number of [1, 2]) await lose(number);
  });

  test.each(['', 'base-put'])('what the newer one still names is found there (killed at: %s)', async (step) => {
    writeHalf(1, 71_001);
    a.write(9, 71_009);
    const before = a.content;
    a.onStep = (at) => {
      if (at === step) throw new Killed(at);
    };
    if (step === '') expect(await a.save()).toBe('apart');
    else {
      await expect(a.save()).rejects.toThrow(Killed);
      await a.restart();
      expect(await a.drain()).toBe('apart');
    }
    await continueHere(a.backup, a.restoreParts);
    expect(await a.drain()).toBe('idle');
    expect(a.content.equals(before)).toBe(true);
    await expectSaved(a);
    const { problems } = await checkRepository(lab.subscriber.server.repository);
    expect(problems.filter(({ name }) => !/\/[12](\/data)?$/.test(name))).toEqual([]);
  });

  test('of a disk that nobody wrote to it is found when somebody asks', async () => {
    const before = a.content;
    await continueWithout(a.backup, { isDiscarded: false });
    expect(a.steps).toContain('base-put');
    await a.restart();
    await expect(continueWithout(a.backup, { isDiscarded: false })).rejects.toMatchObject({ code: 'bad-request' });
    expect(a.content.equals(before)).toBe(true);
  });

  test('both stay, each whole', async () => {
    writeHalf(1, 71_001);
    expect(await a.save()).toBe('apart');
    const before = a.content;
    await keepBoth(a.backup);
    expect(await a.drain()).toBe('idle');
    expect(a.content.equals(before)).toBe(true);
    await expectSaved(a);
    expect((await lab.snapshotBytes(subscription, 3)).equals(b.content)).toBe(true);
  });

  test('while it runs the disk stays as it is; it is found when it has stopped', async () => {
    a.isRunning = true;
    writeHalf(1, 71_001);
    await expect(a.save()).rejects.toMatchObject({ code: 'base-lost' });
    expect(a.steps).not.toContain('base-put');
    a.isRunning = false;
    expect(await a.drain()).toBe('apart');
  });

  test('what the newer one does not have either: a start does not wait for it, the person chooses', async () => {
    await lose(3);
    writeHalf(1, 71_001);
    expect(await catchUp(a.backup, a.restoreParts)).toBe('apart');
    expect(a.backup.state.apart).toMatchObject({ why: 'other-head', head: { number: 3 } });
    expect(blockAt(1).subarray(0, HALF).equals(blockOf(71_001).subarray(0, HALF))).toBe(true);
  });

  // Seen in review: only the other device's head was, and retention took what might have come back.
  test('what is given up stays pinned: the other state, and what the disk here lies on', async () => {
    await lose(3);
    writeHalf(1, 71_001);
    expect(await catchUp(a.backup, a.restoreParts)).toBe('apart');
    await continueHere(a.backup, a.restoreParts);
    await continueWithout(a.backup, { isDiscarded: true });
    expect(await a.drain()).toBe('idle');
    await expectSaved(a);
    const { account } = lab.subscriber.person;
    const { subscriptions } = lab.subscriber.server.repository.catalogue;
    const rows = await subscriptions.snapshots({ account, subscription }, ['kept']);
    expect(rows.filter(({ pinned }) => pinned).map(({ number }) => number)).toEqual([1, 3]);
  });
});

// Else the repository took what is here for based on that, and what it is based on went 30 days later.
test('whoever goes on here over another head lies on the old snapshot until that is saved', async () => {
  const { account } = lab.subscriber.person;
  const basedOn = async (): Promise<number | undefined> => {
    const rows = await lab.subscriber.server.repository.catalogue.subscriptions.deviceBases({ account, subscription });
    return rows.find(({ device }) => device === a.identity.deviceId)?.number;
  };
  await a.backup.leases.release();
  const b = await lab.transceiver();
  await b.restore(subscription);
  b.write(3, 72_003);
  await b.save();
  a.write(4, 71_004);
  expect(await a.save()).toBe('apart');
  await continueHere(a.backup, a.restoreParts);
  await a.backup.leases.beat();
  expect(await basedOn()).toBe(1);
  expect(await a.drain()).toBe('idle');
  await a.backup.leases.beat();
  expect(await basedOn()).toBe(3);
});
