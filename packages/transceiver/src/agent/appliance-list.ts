/** The appliances that a person may use, from the repository, or without it from what this machine holds; and what is here of each. */
import type { ApplianceRow, AppliancesReply } from './agent-types.js';
import type { Session } from './session.js';
import { versionsAtHand, type AtHandParts } from './versions-at-hand.js';

/** Errors: those of Session.refresh. */
export async function listAppliances(session: Session, parts: AtHandParts): Promise<AppliancesReply> {
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
  return { appliances, connected: isOnline, ...(shownNote === undefined ? {} : { note: shownNote }) };
}

/** Those that the newest heads name. */
const knownRows = ({ trust }: Session): ApplianceRow[] =>
  (trust.heads?.heads ?? []).map(({ appliance, version }) => ({
    ...{ name: appliance, title: '', latest: version },
    access: 'use',
  }));
