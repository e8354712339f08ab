/** Whether a version may still be started where the administrator has made a newer one mandatory (docs/formats/trust.md). */
import { CollectiveError, type MandatoryMark } from '@collective/shared';
import type { TrustClient } from './trust-client.js';

const DAY_SECONDS = 86_400;

/**
 * A note for the person, or nothing to say; pure. `nowSeconds`: never earlier than the newest heads that were seen. Errors:
 * `outdated` after the date where the repository was reached, and after the grace days where it was not.
 */
export const mandatoryNote = (
  mark: MandatoryMark | undefined,
  start: {
    readonly name: string;
    readonly version: number;
    readonly isOnline: boolean;
    readonly nowSeconds: number;
  },
): string | undefined => {
  if (mark === undefined || start.version >= mark.version) return undefined;
  const wanted = `${start.name}@${String(mark.version)}`;
  const when = (seconds: number): string => new Date(seconds * 1000).toLocaleString();
  if (start.nowSeconds < mark.from)
    return `From ${when(mark.from)} on ${wanted} or a newer version is mandatory; this is ${String(start.version)}.`;
  const last = mark.from + mark.graceDays * DAY_SECONDS;
  const data = { appliance: start.name, version: mark.version };
  if (start.isOnline) {
    throw new CollectiveError('outdated', `${wanted} or a newer version is mandatory since ${when(mark.from)}.`, {
      data,
    });
  }
  if (start.nowSeconds >= last) {
    const days = `${String(mark.graceDays)} ${mark.graceDays === 1 ? 'day' : 'days'}`;
    throw new CollectiveError(
      'outdated',
      `${wanted} or a newer version is mandatory since ${when(mark.from)}, and without the repository an older one could be started for ${days} after that.`,
      { data },
    );
  }
  return `${wanted} or a newer version is mandatory since ${when(mark.from)}. Without the repository version ${String(start.version)} can be started until ${when(last)}.`;
};

/** The same by the newest heads and this machine's clock. A clock that was set back does not make it earlier than they are. */
export const mandatoryNotes = (
  trust: Pick<TrustClient, 'mandatory'>,
  start: { readonly name: string; readonly version: number; readonly isOnline: boolean },
): string[] => {
  const { mark, notBeforeSeconds } = trust.mandatory(start.name);
  const nowSeconds = Math.max(Math.floor(Date.now() / 1000), notBeforeSeconds);
  const note = mandatoryNote(mark, { ...start, nowSeconds });
  return note === undefined ? [] : [note];
};

/** Of a machine that was suspended: what it has in memory is the person's, so it goes on, and they are told. */
export const resumedNotes = (
  trust: Pick<TrustClient, 'mandatory'>,
  { name, version }: { readonly name: string; readonly version: number },
): string[] => {
  const { mark } = trust.mandatory(name);
  if (mark === undefined || version >= mark.version) return [];
  const from = new Date(mark.from * 1000).toLocaleString();
  return [`${name}@${String(mark.version)} or a newer version is mandatory from ${from}: stop it and start it again.`];
};
