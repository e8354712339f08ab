import { describe, expect, it } from 'vitest';
import {
  decodeProfile,
  encodeProfile,
  PROFILE_DELETED_MAX,
  PROFILE_DELETED_WHOLE_MAX,
  type Digest,
  type Profile,
} from '@collective/shared';
import type { MachineBackup } from './machine-backup.js';
import { namedSubscriptions, withBroughtBack, withDeleted, withHead } from './profile-subscriptions.js';

const id = (digit: string): string => digit.repeat(32);
const digest = (digit: string): Digest => digit.repeat(64) as Digest;
const EMPTY: Profile = {
  ...{ format: 1, number: 1, account: 'pat', devices: [], epochs: [], formerIdentities: [], subscriptions: [] },
  repository: { identity: digest('1'), origin: 'http://127.0.0.1:1', pin: null },
};
type Machine = Pick<MachineBackup, 'state' | 'name' | 'parts'>;
const machine = (subscription: string, name = 'tiny', more: object = {}): Machine =>
  ({
    name,
    parts: { person: { deviceName: 'laptop' } },
    state: {
      ...{ subscription, appliance: 'tiny', isRegistered: true },
      head: { number: 3, manifest: digest('5'), committedAt: 9, deviceName: 'laptop' },
      ...more,
    },
  }) as unknown as Machine;
const names = (profile: Profile): string[] => profile.subscriptions.map(({ name }) => name);
const one = (digit: string, name: string): Profile['subscriptions'][number] => ({
  ...{ id: id(digit), appliance: 'tiny', name, head: null },
});

describe('two devices made a machine of one name while they were apart', () => {
  it('the one that comes to the profile second gets a free name there, and keeps it', () => {
    const first = withHead(EMPTY, machine(id('a')));
    const both = withHead(first, machine(id('b')));
    expect(names(both)).toEqual(['tiny', 'tiny-2']);
    const newer = { head: { number: 4, manifest: digest('6'), committedAt: 10, deviceName: 'laptop' } };
    expect(names(withHead(both, machine(id('b'), 'tiny', newer)))).toEqual(['tiny', 'tiny-2']);
    expect(withHead(both, machine(id('b')))).toBe(both);
  });

  it('a profile that lists two of one name shows both, the same on every device, and the first keeps it', () => {
    const subscriptions = [one('a', 'tiny'), one('b', 'tiny-2'), one('c', 'tiny'), one('d', 'tiny')];
    const shown = namedSubscriptions({ subscriptions });
    expect(shown.map(({ name }) => name)).toEqual(['tiny', 'tiny-2', 'tiny-3', 'tiny-4']);
    expect(shown.map((each) => each.id)).toEqual(subscriptions.map((each) => each.id));
    expect(namedSubscriptions({ subscriptions: [...shown] })).toEqual(shown);
  });

  it('a machine that is to move is listed under the name that it will have', () => {
    const first = withHead(EMPTY, machine(id('a')));
    expect(names(withHead(first, machine(id('b'), 'tiny', { movesTo: 'tiny-7' })))).toEqual(['tiny', 'tiny-7']);
  });
});

describe('a deleted subscription', () => {
  const listed = withHead(EMPTY, machine(id('a')));
  const deleted = withDeleted(listed, { id: id('a'), now: 77 });

  it('is not listed again by a device that has it at hand, whatever it has saved', () => {
    expect(names(deleted)).toEqual([]);
    expect(withHead(deleted, machine(id('a')))).toBe(deleted);
    expect(withDeleted(deleted, { id: id('a'), now: 78 })).toBe(deleted);
    expect(decodeProfile(encodeProfile(deleted))).toEqual(deleted);
  });

  it('is there again when it is brought back, with the head that nobody may go back behind', () => {
    const again = withBroughtBack(deleted, id('a'));
    expect(again.subscriptions).toEqual(listed.subscriptions);
    expect(again.deletedSubscriptions).toEqual([]);
    const newer = { head: { number: 4, manifest: digest('6'), committedAt: 10, deviceName: 'desk' } };
    expect(withHead(again, machine(id('a'), 'tiny', newer)).subscriptions[0]?.head?.number).toBe(4);
  });

  it('has a free name when its own was given to another since', () => {
    const other = withHead(deleted, machine(id('b')));
    expect(names(withBroughtBack(other, id('a')))).toEqual(['tiny', 'tiny-2']);
  });

  it('is remembered beside hundreds of others, in a profile that is not too large', () => {
    let profile = EMPTY;
    for (let at = 0; at < PROFILE_DELETED_MAX + 9; at += 1) {
      const each = at.toString(16).padStart(32, '0');
      profile = withDeleted(withHead(profile, machine(each)), { id: each, now: at });
    }
    const list = profile.deletedSubscriptions ?? [];
    expect(list).toHaveLength(PROFILE_DELETED_MAX);
    expect(list.filter(({ was }) => was !== null)).toHaveLength(PROFILE_DELETED_WHOLE_MAX);
    expect(encodeProfile(profile).length).toBeLessThan(65_536);
    expect(withBroughtBack(profile, list[0]?.id ?? '')).toBe(profile);
  });
});
