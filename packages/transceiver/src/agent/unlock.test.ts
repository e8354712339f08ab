import { currentEpoch, derivePersonKeys, newEpochSecret, newPersonSecret, type Profile } from '@collective/shared';
import { describe, expect, it } from 'vitest';
import { withUnlocked } from './unlock.js';

const profileOf = (epochs: readonly number[], change: Partial<Profile> = {}): Profile => ({
  format: 1,
  number: 1,
  account: 'alice',
  repository: { identity: 'a'.repeat(64) as never, origin: 'http://127.0.0.1:1', pin: null },
  devices: [],
  epochs: epochs.map((epoch) => ({ epoch, secret: newEpochSecret(), createdAt: 1 })),
  formerIdentities: [],
  subscriptions: [],
  ...change,
});
const subscription = (id: string): Profile['subscriptions'][number] => ({
  id: id.repeat(32),
  appliance: 'tiny',
  name: id,
  head: null,
});

describe('unlocking a profile of before a reset', () => {
  const old = derivePersonKeys(newPersonSecret());

  it('brings its epochs, with the derived first one, its subscriptions and its identity; new blocks keep the new epoch', () => {
    const oldProfile = profileOf([2, 3], { subscriptions: [subscription('a')] });
    const now = profileOf([1_001], { subscriptions: [subscription('b')] });
    const unlocked = withUnlocked(now, { old, oldProfile, now: 5 });
    const derived = { epoch: 1, secret: old.firstEpochSecret.toString('base64url'), createdAt: 5 };
    expect(unlocked.epochs).toEqual([derived, ...oldProfile.epochs, ...now.epochs]);
    expect(currentEpoch(unlocked.epochs)).toBe(1_001);
    expect(unlocked.subscriptions.map(({ name }) => name)).toEqual(['b', 'a']);
    expect(unlocked.formerIdentities).toEqual([old.identity.publicKey]);
    expect(unlocked.formerDiskKeys).toEqual([old.diskKey.toString('base64url')]);
    expect(withUnlocked(unlocked, { old, oldProfile, now: 6 })).toBe(unlocked);
  });

  it('of the second of two resets brings what was unlocked into the first one, and no derived epoch', () => {
    const first = derivePersonKeys(newPersonSecret()).identity.publicKey;
    const firstDiskKey = Buffer.alloc(64, 7).toString('base64url');
    const between = profileOf([1, 2, 1_001], { formerIdentities: [first], formerDiskKeys: [firstDiskKey] });
    const unlocked = withUnlocked(profileOf([2_001]), { old, oldProfile: between, now: 5 });
    expect(unlocked.epochs.map(({ epoch }) => epoch)).toEqual([1, 2, 1_001, 2_001]);
    expect(unlocked.epochs[0]).toEqual(between.epochs[0]);
    expect(unlocked.formerIdentities).toEqual([old.identity.publicKey, first]);
    expect(unlocked.formerDiskKeys).toEqual([old.diskKey.toString('base64url'), firstDiskKey]);
    const neverUnlocked = withUnlocked(profileOf([2_001]), { old, oldProfile: profileOf([1_001]), now: 5 });
    expect(neverUnlocked.epochs.map(({ epoch }) => epoch)).toEqual([1_001, 2_001]);
  });

  it('of an account that never had a profile brings its first epoch', () => {
    const unlocked = withUnlocked(profileOf([1_001]), { old, oldProfile: undefined, now: 5 });
    expect(unlocked.epochs.map(({ epoch }) => epoch)).toEqual([1, 1_001]);
  });
});
