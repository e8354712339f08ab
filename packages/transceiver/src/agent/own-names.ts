/**
 * Under which names this device has the person's machines, beside those under which all their devices know them (the profile's). Two
 * devices that were apart may both have made a `tiny`: the one that came to the profile second is `tiny-2` there, and on its own device
 * when it is at rest the next time.
 */
import { CollectiveError, isApplianceName, type Profile } from '@collective/shared';
import { namedSubscriptions } from '../backup/profile-subscriptions.js';

export type OwnMachine = { readonly name: string; readonly subscription: string; readonly movesTo?: string };
export type Renaming = { readonly from: string; readonly to: string };

/** Machines here that are called something else: in the profile, or by a move that is not over. Pure. */
export const planNames = (profile: Profile | undefined, here: readonly OwnMachine[]): readonly Renaming[] => {
  const listed = profile === undefined ? [] : namedSubscriptions(profile);
  return here.flatMap(({ name: from, subscription, movesTo }) => {
    const to = movesTo ?? listed.find(({ id }) => id === subscription)?.name ?? from;
    return to === from || !isApplianceName(to) ? [] : [{ from, to }];
  });
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
