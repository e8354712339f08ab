/** What every catalogue must do for persons' data; run against SQLite and the memory double. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Catalogue } from '../catalogue/catalogue.js';
import {
  type LeaseRecord,
  type SnapshotRecord,
  type SnapshotUpload,
  type SubscriptionRecord,
} from '../catalogue/subscriptions.js';
import { digestOf } from './catalogue-contract.js';

export const subscriptionOf = (account: string, subscription: string, createdAt = 10): SubscriptionRecord => ({
  account,
  subscription,
  appliance: 'debian',
  createdAt,
  state: 'live',
  stateSince: 0,
  leaseNumber: 0,
  lease: undefined,
});
export const leaseOf = (lease: number, device = 'laptop'): LeaseRecord => ({
  lease,
  device: digestOf(device),
  takenAt: 5,
  lastHeartbeatAt: 5,
  unsavedBytes: 0,
  isRunning: false,
  isReleased: false,
});
export const snapshotOf = (
  account: string,
  subscription: string,
  number: number,
  change: Partial<SnapshotRecord> = {},
): SnapshotRecord => ({
  account,
  subscription,
  number,
  manifest: digestOf(`${account}/${subscription}/${number}`),
  createdAt: 9,
  committedAt: 10,
  reason: 'periodic',
  addedBytes: 100,
  pinned: false,
  state: 'kept',
  stateSince: 0,
  ...change,
});
export const snapshotUploadOf = (id: string, account = 'alice', subscription = 's1'): SnapshotUpload => ({
  id,
  account,
  subscription,
  device: digestOf('laptop'),
  number: 2,
  parent: { number: 1, manifest: digestOf('one') },
  createdAt: 10,
  expiresAt: 100,
  receivedBytes: 0,
  committed: undefined,
});

export const subscriptionContract = (
  name: string,
  make: () => Promise<{ readonly catalogue: Catalogue; readonly end: () => Promise<void> }>,
): void => {
  describe(`${name} as a catalogue of persons' data`, () => {
    let catalogue: Catalogue;
    let end: () => Promise<void>;
    beforeEach(async () => {
      ({ catalogue, end } = await make());
    });
    afterEach(async () => {
      await catalogue.close();
      await end();
    });
    const ALICE = { account: 'alice', subscription: 's1' };
    const BOB = { account: 'bob', subscription: 's1' };

    test('one id is a subscription of its own for each account, and is made once', async () => {
      const { subscriptions } = catalogue;
      expect(await subscriptions.addSubscription(subscriptionOf('alice', 's1'))).toBe(true);
      expect(await subscriptions.addSubscription({ ...subscriptionOf('alice', 's1'), appliance: 'tiny' })).toBe(false);
      expect(await subscriptions.addSubscription(subscriptionOf('bob', 's1', 3))).toBe(true);
      expect(await subscriptions.addSubscription(subscriptionOf('bob', 's0', 4))).toBe(true);
      expect(await subscriptions.subscription(ALICE)).toEqual(subscriptionOf('alice', 's1'));
      expect((await subscriptions.subscriptionsOf('bob')).map(({ subscription }) => subscription)).toEqual([
        's1',
        's0',
      ]);
      expect(await subscriptions.subscriptions()).toEqual([ALICE, { account: 'bob', subscription: 's0' }, BOB]);
      await subscriptions.setSubscriptionState(ALICE, 'deleted', 7);
      expect(await subscriptions.subscription(ALICE)).toMatchObject({ state: 'deleted', stateSince: 7 });
      expect(await subscriptions.subscription(BOB)).toMatchObject({ state: 'live' });
    });
    test('only the newest lease beats and is given back; its number never goes down', async () => {
      const { subscriptions } = catalogue;
      await subscriptions.addSubscription(subscriptionOf('alice', 's1'));
      const beat = { lastHeartbeatAt: 9, unsavedBytes: 4, isRunning: true };
      expect(await subscriptions.beat(ALICE, 1, beat)).toBe(false);
      await subscriptions.setLease(ALICE, leaseOf(1));
      await subscriptions.setLease(ALICE, leaseOf(2, 'desktop'));
      expect(await subscriptions.beat(ALICE, 1, beat)).toBe(false);
      expect(await subscriptions.beat(ALICE, 2, beat)).toBe(true);
      expect(await subscriptions.subscription(ALICE)).toMatchObject({
        leaseNumber: 2,
        lease: { ...leaseOf(2, 'desktop'), ...beat },
      });
      expect(await subscriptions.releaseLease(ALICE, 1)).toBe(false);
      expect([await subscriptions.releaseLease(ALICE, 2), await subscriptions.releaseLease(ALICE, 2)]).toEqual([
        true,
        true,
      ]);
      expect(await subscriptions.beat(ALICE, 2, beat)).toBe(false);
      expect((await subscriptions.subscription(ALICE))?.lease).toMatchObject({ isReleased: true, isRunning: false });
      await subscriptions.raiseLeaseNumber(ALICE, 1);
      expect((await subscriptions.subscription(ALICE))?.leaseNumber).toBe(2);
      await subscriptions.raiseLeaseNumber(ALICE, 9);
      expect((await subscriptions.subscription(ALICE))?.leaseNumber).toBe(9);
    });
    test('a device is based on one snapshot of a subscription at a time, and moves on only', async () => {
      const { subscriptions } = catalogue;
      const [laptop, desktop] = [digestOf('laptop'), digestOf('desktop')];
      expect(await subscriptions.deviceBases(ALICE)).toEqual([]);
      await subscriptions.raiseDeviceBase(ALICE, laptop, 3);
      await subscriptions.raiseDeviceBase(ALICE, desktop, 3);
      await subscriptions.raiseDeviceBase(BOB, laptop, 5);
      for (const number of [4, 4, 2]) await subscriptions.raiseDeviceBase(ALICE, laptop, number);
      const bases = await subscriptions.deviceBases(ALICE);
      expect(bases.map(({ device }) => device)).toEqual([laptop, desktop].sort());
      expect(new Map(bases.map(({ device, number }) => [device, number]))).toEqual(
        new Map([
          [laptop, 4],
          [desktop, 3],
        ]),
      );
      expect(await subscriptions.deviceBases(BOB)).toEqual([{ device: laptop, number: 5 }]);
    });
    test('snapshots by state, by number from above, and the head, which is never a pending one', async () => {
      const { subscriptions } = catalogue;
      expect(await subscriptions.head(ALICE)).toBeUndefined();
      for (const number of [3, 1, 2, 10]) await subscriptions.recordSnapshot(snapshotOf('alice', 's1', number));
      await subscriptions.recordSnapshot(snapshotOf('bob', 's1', 50));
      await subscriptions.recordSnapshot(snapshotOf('alice', 's1', 11, { state: 'pending' }));
      await subscriptions.setSnapshotState(ALICE, 2, { state: 'deleted', stateSince: 6, pinned: true });
      expect((await subscriptions.head(ALICE))?.number).toBe(10);
      const numbers = async (states: Parameters<typeof subscriptions.snapshots>[1]): Promise<number[]> =>
        (await subscriptions.snapshots(ALICE, states)).map(({ number }) => number);
      expect([await numbers(['kept']), await numbers(['deleted', 'pending']), await numbers([])]).toEqual([
        [1, 3, 10],
        [2, 11],
        [],
      ]);
      expect(await subscriptions.retainedSnapshots(ALICE)).toEqual(
        (await subscriptions.snapshots(ALICE, ['kept'])).map(({ number, committedAt, pinned }) => ({
          number,
          committedAt,
          pinned,
        })),
      );
      const below = await subscriptions.snapshotsBelow(ALICE, 10, { states: ['kept', 'deleted'], countMax: 2 });
      expect(below.map(({ number }) => number)).toEqual([3, 2]);
      expect(await subscriptions.snapshotNumbers(ALICE)).toEqual([1, 2, 3, 10, 11]);
      expect((await subscriptions.pendingSnapshots()).map(({ number }) => number)).toEqual([11]);
      await subscriptions.removeSnapshot(ALICE, 11);
      expect(await subscriptions.pendingSnapshots()).toEqual([]);
      expect(await subscriptions.snapshot(ALICE, 2)).toEqual(
        snapshotOf('alice', 's1', 2, { state: 'deleted', stateSince: 6, pinned: true }),
      );
    });
    test('new rows have a higher sequence, changed ones keep theirs', async () => {
      const { subscriptions } = catalogue;
      expect(await subscriptions.snapshotSequence()).toBe(0);
      await subscriptions.recordSnapshot(snapshotOf('alice', 's1', 1, { state: 'pending' }));
      const before = await subscriptions.snapshotSequence();
      await subscriptions.recordSnapshot(snapshotOf('alice', 's1', 1));
      expect([await subscriptions.snapshotSequence(), await subscriptions.snapshotsSince(before)]).toEqual([
        before,
        [],
      ]);
      await subscriptions.recordSnapshot(snapshotOf('bob', 's1', 1));
      expect(await subscriptions.snapshotsSince(before)).toEqual([snapshotOf('bob', 's1', 1)]);
      // A number that is free again never comes back.
      const highest = await subscriptions.snapshotSequence();
      await subscriptions.removeSnapshot(BOB, 1);
      await subscriptions.recordSnapshot(snapshotOf('bob', 's1', 2));
      expect(await subscriptions.snapshotSequence()).toBeGreaterThan(highest);
    });
    test('an upload grows from what it has, until it is committed, ended or expired', async () => {
      const { subscriptions } = catalogue;
      await subscriptions.addSnapshotUpload(snapshotUploadOf('u1'));
      await subscriptions.addSnapshotUpload({ ...snapshotUploadOf('u2'), parent: undefined, createdAt: 5 });
      expect((await subscriptions.openSnapshotUploads('alice')).map(({ id }) => id)).toEqual(['u2', 'u1']);
      expect(await subscriptions.openSnapshotUploads('bob')).toEqual([]);
      expect(await subscriptions.setReceivedBytes('u1', { from: 1, to: 5, expiresAt: 150 })).toBe(false);
      expect(await subscriptions.setReceivedBytes('u1', { from: 0, to: 5, expiresAt: 150 })).toBe(true);
      expect(await subscriptions.setReceivedBytes('none', { from: 0, to: 5, expiresAt: 150 })).toBe(false);
      expect(await subscriptions.snapshotUpload('u1')).toEqual({
        ...snapshotUploadOf('u1'),
        receivedBytes: 5,
        expiresAt: 150,
      });
      await subscriptions.markSnapshotCommitted('u1', digestOf('two'));
      expect(await subscriptions.setReceivedBytes('u1', { from: 5, to: 6, expiresAt: 150 })).toBe(false);
      expect((await subscriptions.snapshotUpload('u1'))?.committed).toBe(digestOf('two'));
      expect((await subscriptions.openSnapshotUploads('alice')).map(({ id }) => id)).toEqual(['u2']);
      await subscriptions.removeEndedSnapshotUploads(100);
      expect(await subscriptions.snapshotUploadIds()).toEqual(new Set(['u1']));
      await subscriptions.removeSnapshotUpload('u1');
      await subscriptions.removeSnapshotUpload('u1');
      expect(await subscriptions.snapshotUpload('u1')).toBeUndefined();
    });
  });
};
