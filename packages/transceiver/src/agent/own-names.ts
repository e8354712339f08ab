/**
 * Under which names this device has the person's machines, beside those under which all their devices know them (the profile's). Two
 * devices that were apart may both have made a `tiny`: the one that came to the profile second is `tiny-2` there, and on its own device
 * when it is at rest the next time.
 */
import { CollectiveError, isApplianceName, type Profile } from '@collective/shared';
import { freeName, namedSubscriptions } from '../backup/profile-subscriptions.js';

export type OwnMachine = { readonly name: string; readonly subscription: string; readonly movesTo?: string };
export type Renaming = { readonly from: string; readonly to: string };

/** `isNoted`: it is in the machine's backup.json, and finds a free name by itself when that one is taken. */
type Planned = Renaming & { readonly isNoted: boolean };

/** Machines here that are called something else: in the profile, or by a move that is not over. Pure. */
export const planNames = (profile: Profile | undefined, here: readonly OwnMachine[]): readonly Planned[] => {
  const listed = profile === undefined ? [] : namedSubscriptions(profile);
  return here.flatMap(({ name: from, subscription, movesTo }) => {
    const to = movesTo ?? listed.find(({ id }) => id === subscription)?.name ?? from;
    return to === from || !isApplianceName(to) ? [] : [{ from, to, isNoted: movesTo !== undefined }];
  });
};

/**
 * The next of them that can move; undefined: none can, now. One whose name is taken waits until it is free. Machines that have each other's
 * names would wait for ever: one of them gets a name of its own first. `taken`: by all machines here. Pure.
 */
export const nextMove = (
  plan: readonly Planned[],
  { taken, isAtRest }: { readonly taken: readonly string[]; readonly isAtRest: (name: string) => boolean },
): Planned | undefined => {
  const free = plan.find(({ from, to, isNoted }) => isAtRest(from) && (isNoted || !taken.includes(to)));
  if (free !== undefined) return free;
  const first = plan.find((one) => ringOf(one, plan)?.every(({ from }) => isAtRest(from)) === true);
  if (first === undefined) return undefined;
  return { ...first, to: freeName(first.to, [...taken, ...plan.map(({ to }) => to)]) };
};

/** `first`, who has the name that it is to get, and so on back to `first`; undefined: that leads elsewhere. */
const ringOf = (first: Planned, plan: readonly Planned[]): readonly Planned[] | undefined => {
  const ring = [first];
  for (;;) {
    const { to } = ring.at(-1) ?? first;
    const holder = plan.find(({ from }) => from === to);
    if (holder === first) return ring;
    if (holder === undefined || ring.includes(holder)) return undefined;
    ring.push(holder);
  }
};

/** Why a machine is called something else than it was, for the person. */
export const saidOf = ({ from, to }: Renaming): string =>
  `What was ${from} on this machine is ${to} now, as on your other devices: one of them has made ${from}, too.`;

/** Errors: `conflict` for a name that has just become another machine's: the person says which of the two they mean. */
export const refuseRenamed = (moved: readonly Renaming[], wanted: readonly string[]): void => {
  const found = moved.find(({ from }) => wanted.includes(from));
  if (found === undefined) return;
  const { from, to } = found;
  throw new CollectiveError(
    'conflict',
    `${saidOf(found)} Say ${to} for what was here, or ${from} for what the other one saved.`,
    { data: { from, to } },
  );
};
