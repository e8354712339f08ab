/**
 * A snapshot that is thinned, forgotten and collected while a transceiver reads it: by the server's own retention and
 * collector, after each request in turn. Either it is read whole, bit for bit, or the person is told that it is gone and
 * everything that was here and at the server is as before.
 */
import { afterAll, expect, test } from 'vitest';
import { CollectiveError } from '@collective/shared';
import { checkRepository, collectGarbage } from '@collective/repository-server';
import { fetchSnapshot, keepBoth, undo } from '@collective/transceiver';
import { BackupLab, DISK, type Transceiver } from './backup-lab.js';

const DAY = 86_400;
/** More than retention keeps of so old ones: the first ones are thinned. */
const SNAPSHOTS = 14;
/** Requests of an undo, and a few more: the last ones are never reached. */
const STEPS = Array.from({ length: 14 }, (_, index) => index + 1);
const GONE = ['not-found', 'block-missing', 'conflict'];
const outcomes = new Set<string>();
// Else the steps are not where they were.
afterAll(() => {
  if (outcomes.size > 0) expect([outcomes.has('undone'), outcomes.size > 1]).toEqual([true, true]);
});

type World = {
  readonly lab: BackupLab;
  readonly home: Transceiver;
  readonly subscription: string;
  readonly first: Buffer;
};

/** Snapshots of one busy block and one quiet one; `first` is what the disk was at the first. Two days later. */
const openWorld = async (): Promise<World> => {
  const lab = await BackupLab.open({ limits: { sessionTokenSeconds: 1e9 } });
  const home = await lab.transceiver();
  await home.create();
  home.write(250, 70_000);
  let first: Buffer | undefined;
  for (let number = 1; number <= SNAPSHOTS; number += 1) {
    home.write(3, 70_000 + number);
    await home.save();
    first ??= home.content;
  }
  lab.subscriber.server.clock.advance(2 * DAY);
  return { lab, home, subscription: home.backup.state.subscription, first: first ?? Buffer.alloc(0) };
};

/** As the collector does it when the grace time is over. */
const forget = async ({ lab }: World): Promise<void> => {
  const done = await collectGarbage(lab.subscriber.server.repository, { graceSeconds: 0 });
  expect(done.snapshotsForgotten).toBeGreaterThan(0);
};

const expectWhole = async ({ lab, home, subscription }: World): Promise<void> => {
  const { head } = home.backup.state;
  expect((await lab.snapshotBytes(subscription, head?.number ?? 0)).equals(home.content)).toBe(true);
  expect((await checkRepository(lab.subscriber.server.repository)).problems).toEqual([]);
};

test.each(STEPS)(
  'an undo to a snapshot that is forgotten after request %i: undone, or nothing has changed',
  async (n) => {
    const world = await openWorld();
    await using _lab = world.lab;
    const { home } = world;
    const before = home.content;
    let calls = 0;
    home.client.afterCall = async () => {
      calls += 1;
      if (calls === n) await forget(world);
    };
    const code = await undo(home.backup, home.restoreParts, 1).then(
      () => 'undone',
      (error: unknown) => (error instanceof CollectiveError ? error.code : String(error)),
    );
    home.client.afterCall = () => undefined;
    expect(['undone', ...GONE]).toContain(code);
    // In any case the machine goes on, and so does its backup.
    expect(await home.drain()).toBe('idle');
    expect(home.content.equals(code === 'undone' ? world.first : before)).toBe(true);
    await expectWhole(world);
    home.write(9, 80_000);
    expect(await home.save()).toBe('idle');
    expect(home.backup.state.pending).toBeNull();
    await expectWhole(world);
  },
);

test('a snapshot that is only thinned is read whole, and an undo to it succeeds', async () => {
  const world = await openWorld();
  await using lab = world.lab;
  const { home, subscription } = world;
  home.write(9, 80_000);
  await home.save();
  const [listed] = (await home.person.client.call('snapshots', {
    params: { subscription },
    query: { which: 'deleted', below: 2 },
  })) as readonly { readonly number: number }[];
  expect(listed?.number).toBe(1);
  const other = await lab.transceiver();
  const { disks } = await fetchSnapshot(other.restoreParts, { subscription, number: 1 });
  const base = disks[0]?.base;
  if (base === undefined) throw new Error('no disk');
  await other.disks.attachBase(DISK, base);
  expect(other.content.equals(world.first)).toBe(true);
  await undo(home.backup, home.restoreParts, 1);
  expect(home.content.equals(world.first)).toBe(true);
  await expectWhole(world);
});

test('a device that was away for a year with work of its own: what its disk is based on is there, and both states are kept', async () => {
  await using lab = await BackupLab.open({ limits: { sessionTokenSeconds: 1e9 } });
  const [home, other] = [await lab.transceiver(), await lab.transceiver()];
  await home.create();
  home.write(3, 70_000);
  home.write(250, 70_001);
  await home.save();
  await home.backup.leases.release();
  const based = home.content;
  const { subscription } = home.backup.state;
  await other.restore(subscription);
  await other.backup.leases.take('free');
  const write = async (seed: number): Promise<void> => {
    other.write(3, 71_000 + seed);
    other.write(250, 72_000 + seed);
    expect(await other.save()).toBe('idle');
  };
  // Of one week, of which one would stay; then one each month.
  for (let seed = 1; seed <= SNAPSHOTS; seed += 1) await write(seed);
  for (let month = 1; month <= 14; month += 1) {
    lab.subscriber.server.clock.advance(30 * DAY);
    await write(100 + month);
    await collectGarbage(lab.subscriber.server.repository, { graceSeconds: 30 * DAY });
  }
  await expect(lab.snapshotBytes(subscription, 2)).rejects.toThrow();
  expect((await lab.snapshotBytes(subscription, 1)).equals(based)).toBe(true);

  home.write(9, 80_000);
  const { content } = home;
  expect(await home.save()).toBe('apart');
  const { here } = await keepBoth(home.backup);
  expect(await home.drain()).toBe('idle');
  expect((await lab.snapshotBytes(here, 1)).equals(content)).toBe(true);
  const head = await lab.head(subscription);
  expect((await lab.snapshotBytes(subscription, head?.number ?? 0)).equals(other.content)).toBe(true);
  expect((await checkRepository(lab.subscriber.server.repository)).problems).toEqual([]);
});
