/** The publisher's side of candidates: who gets one, and making it the version for all. */
import { CollectiveError, hasCode, signLetter } from '@collective/shared';
import type { CandidateRow, CandidatesRequest, PromoteReply, PromoteRequest } from '../agent/agent-types.js';
import { allowedPublishingKey } from './publishing-key.js';
import { nameAccounts, type PublishParts } from './send-version.js';

type CandidateParts = Pick<PublishParts, 'session'> & { readonly signal: AbortSignal };

/** The candidates of an appliance and who gets them, after `add` and `remove` were done. Errors: `not-found`, `not-allowed`. */
export async function changeCandidates(
  { name, version, add = [], remove = [] }: CandidatesRequest,
  { session, signal }: CandidateParts,
): Promise<readonly CandidateRow[]> {
  const { source, note } = await session.refresh(signal);
  if (source === undefined) throw new CollectiveError('repository-unreachable', note);
  if (add.length > 0 || remove.length > 0) {
    const key = await allowedPublishingKey(session, name, signal);
    const wanted = candidateNumber(session, name, version);
    const { digest } = await session.trust.candidateAsPublisher(name, wanted, source);
    await nameAccounts({ appliance: name, version: wanted, manifest: digest }, add, { key, session, signal });
    for (const account of remove)
      await session.client.call('removeLetter', { params: { name, version: wanted, account }, signal });
    await session.refresh(signal);
  }
  const rows: CandidateRow[] = [];
  for (const candidate of session.trust.heads?.candidates ?? []) {
    if (candidate.appliance !== name || (version !== undefined && candidate.version !== version)) continue;
    const params = { name, version: candidate.version };
    const accounts = await session.client.call('candidateLetters', { params, signal }).catch((error: unknown) => {
      // Withdrawn or promoted just now.
      if (hasCode(error, 'not-found')) return undefined;
      throw error;
    });
    if (accounts !== undefined) rows.push({ name, version: candidate.version, accounts });
  }
  return rows;
}

/** Errors: `not-found`, `conflict` when it was not made from the version for all, `not-allowed`. */
export async function promoteCandidate(
  { name, version }: PromoteRequest,
  { session, signal }: CandidateParts,
): Promise<PromoteReply> {
  const { source, note } = await session.refresh(signal);
  if (source === undefined) throw new CollectiveError('repository-unreachable', note);
  const key = await allowedPublishingKey(session, name, signal);
  const wanted = candidateNumber(session, name, version);
  const { digest } = await session.trust.candidateAsPublisher(name, wanted, source);
  const body = signLetter({ appliance: name, version: wanted, manifest: digest, account: null }, key);
  await session.client.call('promoteVersion', { params: { name, version: wanted }, body, signal });
  await session.refresh(signal);
  return { name, version: wanted };
}

/** The one that is named, else the only one that there is. Errors: `not-found`, `usage`. */
function candidateNumber(session: CandidateParts['session'], name: string, version: number | undefined): number {
  if (version !== undefined) return version;
  const all = (session.trust.heads?.candidates ?? []).filter(({ appliance }) => appliance === name);
  const [first] = all;
  if (first === undefined) throw new CollectiveError('not-found', `${name} has no candidate.`);
  if (all.length > 1)
    throw new CollectiveError(
      'usage',
      `${name} has the candidates ${all.map((each) => String(each.version)).join(', ')}: say which.`,
    );
  return first.version;
}
