/**
 * The subscriptions of a person in their profile: under which names all their devices know them, what a commit or a deletion changes.
 * Pure. A device may have made a machine while it was apart from the others, under a name that another one has given, too: whoever comes
 * to the profile second gets another name, and its own device follows (agent/own-names.ts).
 */
import {
  CollectiveError,
  isApplianceName,
  PROFILE_DELETED_MAX,
  PROFILE_DELETED_WHOLE_MAX,
  PROFILE_SUBSCRIPTIONS_MAX,
  type Profile,
  type ProfileSubscription,
} from '@collective/shared';
import type { MachineBackup } from './machine-backup.js';

/** NAME-2, or the next that nobody has. Errors: `too-large`. */
export function freeName(name: string, taken: readonly string[]): string {
  for (let number = 2; number <= PROFILE_SUBSCRIPTIONS_MAX + 2; number += 1) {
    const ending = `-${String(number)}`;
    const candidate = `${name.slice(0, 63 - ending.length)}${ending}`;
    if (isApplianceName(candidate) && !taken.includes(candidate)) return candidate;
  }
  throw new CollectiveError('too-large', `There is no free name for another ${name}.`);
}

/**
 * Each under a name of its own, the same one on every device: the first that is listed under a name has it. The same list when all have.
 */
export function namedSubscriptions({
  subscriptions,
}: Pick<Profile, 'subscriptions'>): readonly ProfileSubscription[] & Profile['subscriptions'] {
  const names = subscriptions.map(({ name }) => name);
  if (new Set(names).size === names.length) return subscriptions;
  const given = new Set<string>();
  return subscriptions.map((one) => {
    const name = given.has(one.name) ? freeName(one.name, [...names, ...given]) : one.name;
    given.add(name);
    return name === one.name ? one : { ...one, name };
  });
}

/** The profile with this machine's subscription and head; the same one when it has them, or a newer head, or knows that it was deleted. */
export const withHead = (
  profile: Profile,
  { state, name, parts }: Pick<MachineBackup, 'state' | 'name' | 'parts'>,
): Profile => {
  if (!state.isRegistered) return profile;
  const { subscription: id, appliance, head } = state;
  const subscriptions = namedSubscriptions(profile);
  const known = subscriptions.find((one) => one.id === id);
  if (known === undefined && subscriptions.length >= PROFILE_SUBSCRIPTIONS_MAX) return profile;
  if (profile.deletedSubscriptions?.some((one) => one.id === id) === true) return profile;
  if (known !== undefined && (head === null || head.number <= (known.head?.number ?? 0))) return profile;
  const deviceName = head === null || head.deviceName === '' ? parts.person.deviceName : head.deviceName;
  const entry = {
    ...{ id, appliance, name: known?.name ?? nameFor(state.movesTo ?? name, subscriptions) },
    head:
      head === null ? null : { number: head.number, manifest: head.manifest, savedAt: head.committedAt, deviceName },
  };
  return {
    ...profile,
    subscriptions:
      known === undefined ? [...subscriptions, entry] : subscriptions.map((one) => (one.id === id ? entry : one)),
  };
};

/** No other device knows of this machine's subscription: were this one lost, nobody would find what it has saved. */
export const isUnlisted = (profile: Profile, backup: Parameters<typeof withHead>[1]): boolean =>
  withHead(profile, backup) !== profile && !profile.subscriptions.some(({ id }) => id === backup.state.subscription);

/**
 * Without a subscription that the person has deleted. That it was is kept, so that no device that still has it at hand lists it again; of
 * the last ones also what it was, with the head that nobody may go back behind when it is brought back.
 */
export const withDeleted = (profile: Profile, of: { readonly id: string; readonly now: number }): Profile => {
  const deleted = profile.deletedSubscriptions ?? [];
  if (deleted.some(({ id }) => id === of.id)) return profile;
  const subscriptions = namedSubscriptions(profile);
  const known = subscriptions.find(({ id }) => id === of.id);
  const was = known === undefined ? null : { appliance: known.appliance, name: known.name, head: known.head };
  const all = [...deleted, { id: of.id, deletedAt: of.now, was }].slice(-PROFILE_DELETED_MAX);
  return {
    ...profile,
    subscriptions: subscriptions.filter(({ id }) => id !== of.id),
    deletedSubscriptions: all.map((one, at) =>
      at < all.length - PROFILE_DELETED_WHOLE_MAX ? { ...one, was: null } : one,
    ),
  };
};

/** A deleted one is there again, under its name or a free one. The same profile when nobody knows what it was. */
export const withBroughtBack = (profile: Profile, id: string): Profile => {
  const deleted = profile.deletedSubscriptions ?? [];
  const was = deleted.find((one) => one.id === id)?.was ?? null;
  if (was === null) return profile;
  const subscriptions = namedSubscriptions(profile);
  if (subscriptions.length >= PROFILE_SUBSCRIPTIONS_MAX)
    throw new CollectiveError('too-large', 'You have as many subscriptions as there can be.');
  return {
    ...profile,
    subscriptions: [...subscriptions, { id, ...was, name: nameFor(was.name, subscriptions) }],
    deletedSubscriptions: deleted.filter((one) => one.id !== id),
  };
};

const nameFor = (name: string, subscriptions: readonly ProfileSubscription[]): string => {
  const taken = subscriptions.map((one) => one.name);
  return taken.includes(name) ? freeName(name, taken) : name;
};
