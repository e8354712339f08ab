/** The appliances that a person may use, from the repository, or without it from what this machine holds; and what is here of each. */
import type { Profile } from '@collective/shared';
import { namedSubscriptions } from '../backup/profile-subscriptions.js';
import type { ApplianceRow, AppliancesReply } from './agent-types.js';
import type { DeletedRow, SubscriptionRow } from './data-types.js';
import type { Session } from './session.js';
import { versionsAtHand, type AtHandParts } from './versions-at-hand.js';

export type ApplianceListParts = AtHandParts & {
  /** The name under which a subscription is on this machine. */
  readonly nameHere: (subscription: string) => string | undefined;
};

/** Errors: those of Session.refresh. */
export async function listAppliances(session: Session, parts: ApplianceListParts): Promise<AppliancesReply> {
  const { source, note } = await session.refresh();
  const isOnline = source !== undefined;
  const rows = isOnline ? await session.client.call('appliances', {}) : knownRows(session);
  const atHand = await versionsAtHand(
    rows.map(({ name }) => name),
    parts,
    // Without the repository it is what the person has to know; else it is said when that costs nothing.
    { mayStart: !isOnline },
  );
  const appliances = rows.map((row) => {
    const seen = session.trust.seenVersion(row.name);
    return {
      ...row,
      ...(seen === undefined ? {} : { seen }),
      ...(atHand === undefined ? {} : { atHand: atHand.get(row.name) ?? [] }),
    };
  });
  const shownNote = note ?? session.trust.staleNote();
  const subscriptions = subscriptionRows(session.profile.profile, parts.nameHere);
  const deleted = deletedRows(session.profile.profile);
  return {
    appliances,
    subscriptions,
    deleted,
    connected: isOnline,
    ...(shownNote === undefined ? {} : { note: shownNote }),
  };
}

/** Those that the newest heads name. */
const knownRows = ({ trust }: Session): ApplianceRow[] =>
  (trust.heads?.heads ?? []).map(({ appliance, version }) => ({
    ...{ name: appliance, title: '', latest: version },
    access: 'use',
  }));

/** All of the person's, each by the name that every device of theirs shows. Pure. */
export const subscriptionRows = (
  profile: Profile | undefined,
  nameHere: ApplianceListParts['nameHere'],
): SubscriptionRow[] =>
  profile === undefined
    ? []
    : namedSubscriptions(profile).map(({ id, name, appliance, head }) => ({
        ...{ name, appliance, savedAt: head?.savedAt ?? null, savedBy: head?.deviceName ?? null },
        here: nameHere(id) ?? null,
      }));

/** Pure. */
export const deletedRows = (profile: Profile | undefined): DeletedRow[] =>
  [...(profile?.deletedSubscriptions ?? [])].reverse().flatMap(({ deletedAt, was }) => {
    if (was === null) return [];
    const { name, appliance, head } = was;
    return [{ name, appliance, savedAt: head?.savedAt ?? null, deletedAt }];
  });
